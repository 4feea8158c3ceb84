"""What programs call: plain HTTP routes beside Gradio's, images for model cards, frames for pages, an MCP server.

`answers.py` has the answers, `endpoints.py` the table of what may be asked; everything else is a way to
say them: `routes.py` over HTTP, `tools.py` as tools of agents, `openapi.py` as a description, `embed*.py` in the
frames of others. The page is not made here, and nothing here knows gradio.
"""
