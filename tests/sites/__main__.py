"""Print docs/operations/sites.md."""

from tests.sites.page import page

print(page(), end="")
