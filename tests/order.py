"""Which files of the tests take long, for the order in which `make test` begins them."""

LONGEST = (
    "cluster/test_sites_scheduler", "docs/test_walk", "attack/test_schemathesis", "faults/test_exactly_once",
    "attack/test_path_rules", "faults/test_soak", "cluster/test_check_connect", "attack/test_injection",
    "cluster/test_demo_life", "faults/test_fuzz", "contract/test_links", "cluster/test_modes", "sites/test_start_up",
    "filesystem/test_operations", "schedulers/test_receipts", "cluster/test_slurm_rest", "sites/test_replacing",
    "cluster/test_content_tus", "faults/test_surroundings", "cli/test_commands", "transfers/test_wormhole",
    "sites/test_unpacking", "deploy/test_proxies",
)  # fmt: skip
"""Files that take a minute and more, which begin first: one that began last would keep the other workers waiting."""
LONG = {
    "attack", "cli", "clients", "cluster", "contract", "demo", "deploy", "docs", "faults", "filesystem", "http",
    "server", "sites", "ssh", "transfers",
}  # fmt: skip
"""Directories whose files take long. Short files come last, so that all workers of ``make test`` end together."""
LONGER = {"test_pages_in_browser", "test_damage", "test_receipts"}
"""Files of other directories that run a browser, or take seconds a test."""
