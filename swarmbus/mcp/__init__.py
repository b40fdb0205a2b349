"""The MCP server of an agent: its tools, what they answer, and who of several servers is given what.

`server` alone imports mcp, which takes a second to load.
"""
