"""The Space's entry: build the page, launch it."""


def main() -> None:
    # Imported here: the process that builds model classes imports this file too, and needs none of it.
    from quantspace.api import add_endpoints
    from quantspace.ui.page import build_page, launch_options, warm_up
    from quantspace.web.routes import app_kwargs

    warm_up()
    with build_page() as page:
        add_endpoints()
    page.queue(max_size=64).launch(**launch_options(), app_kwargs=app_kwargs())


if __name__ == "__main__":
    main()
