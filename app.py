"""The Space's entry: build the page, launch it."""

from quantspace.ui.page import build_page, launch_options, warm_up


def main() -> None:
    warm_up()
    build_page().queue(max_size=64).launch(**launch_options())


if __name__ == "__main__":
    main()
