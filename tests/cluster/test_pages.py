"""``/docs`` in a real browser that reaches this machine alone: somebody logs in and tries a request out."""

from pathlib import Path

from hpcgate.demo.cluster import Cluster, Gateway
from tests.browser import browser

OPERATION = "[...document.querySelectorAll('.opblock')].find(b => b.innerText.includes('/status/systems'))"
FLOW = "[...document.querySelectorAll('.auth-container')].find(c => c.innerText.includes('authorizationCode'))"


def stays_here(requests: list[str]) -> bool:
    return all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests)


async def test_a_person_logs_in_and_tries_it_out(gateway: Gateway, cluster: Cluster, tmp_path: Path) -> None:
    user = cluster.user("alice")
    async with browser(tmp_path) as chromium:
        page = await chromium.page("about:blank")
        await page.open(f"{gateway.url}/docs")
        await page.until("document.querySelector('.btn.authorize')")
        await page.run("document.querySelector('.btn.authorize').click()")
        await page.until(FLOW + "?.querySelector('button.authorize')")
        await page.run(FLOW + ".querySelector('button.authorize').click()")
        popup = await chromium.page("/authorize?")
        await popup.until(f"document.querySelector('[value=\"{user.name}\"]')")
        await popup.run(f"document.querySelector('[value=\"{user.name}\"]').click()")
        await page.until(FLOW + ".innerText.includes('Logout')")
        await popup.close()
        await page.run("document.querySelector('.btn-done').click()")
        await page.run(OPERATION + ".querySelector('.opblock-summary-control').click()")
        await page.until(OPERATION + ".querySelector('.try-out__btn')")
        await page.run(OPERATION + ".querySelector('.try-out__btn').click()")
        await page.until(OPERATION + ".querySelector('.execute')")
        await page.run(OPERATION + ".querySelector('.execute').click()")
        status = OPERATION + ".querySelector('.live-responses-table tbody .response-col_status')?.innerText"
        answered = await page.until(f"({status} || '').match(/\\d+/)?.[0]")
        assert answered == "200"
        assert f"{gateway.url}/status/systems" in page.requests
        assert stays_here(page.requests)
        assert page.errors == []
        await page.close()
