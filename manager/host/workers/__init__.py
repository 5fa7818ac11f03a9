"""The pool of a host: starts, watches, stops and adopts workers."""
