"""The Space's entry: build the page, launch it."""


def main() -> None:
    # Imported here: the process that builds model classes imports this file too, and needs none of it.
    from quantspace.ui.page import build_page, launch_options, warm_up

    warm_up()
    build_page().queue(max_size=64).launch(**launch_options())


if __name__ == "__main__":
    main()
