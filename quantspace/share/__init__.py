"""What leaves the page: links, images, tables and snippets, from a state or an estimate. No I/O, no torch."""
