"""What an operator does on the page, done: log in, look, start, watch it live, see the verdict, decide."""

from __future__ import annotations

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.conftest import PASSWORD, Site, log_in


def start(page: Page, site: Site, target: str, mode: str) -> str:
    """A failover, started on the page; the job's id."""
    page.goto(f"{site.url}/targets/{target}/failover/{mode}")
    if mode != "test":
        page.check("[name=confirmed]")
    page.click("button:has-text('Start')")
    page.wait_for_url(f"**/jobs/{target}-*")
    return page.url.rpartition("/")[2]


def test_a_failover_from_login_to_rollback(page: Page, site: Site) -> None:
    log_in(page, site)
    page.click("a:has-text('vm1')")
    expect(page.locator("body")).to_contain_text("What a failover would meet")
    page.click("text=Planned failover…")
    expect(page.locator("body")).to_contain_text("disks move from pvscsi to virtio-blk")
    expect(page.locator("main")).to_contain_text("for its first boot")  # a change in the guest
    expect(page.locator("main")).to_contain_text("production")
    page.screenshot(path=site.shots / "plan.png", full_page=True)
    job = start(page, site, "vm1", "planned")
    # Nothing is loaded again by hand from here on: the page follows the job by itself.
    expect(page.locator("#link")).to_have_text("live")
    expect(page.locator(".verdict .badge")).to_have_text("✓succeeded", timeout=60_000)
    expect(page.locator(".decide")).to_contain_text("there is no way back")
    page.screenshot(path=site.shots / "verdict.png", full_page=True)
    page.click("summary:has-text('Roll back')")
    page.fill(".rollback [name=reason]", "this was a drill")
    page.check(".rollback [name=confirmed]")
    page.click(".rollback button")
    expect(page.locator(".facts .badge", has_text="rolled back")).to_be_visible(timeout=60_000)
    page.screenshot(path=site.shots / "rolled-back.png", full_page=True)
    shown = site.call("GET", f"/jobs/{job}").json()
    assert shown["state"] == "rolled_back" and shown["verdict"]["word"] == "succeeded"
    newest = site.call("GET", f"/audit?subject={job}").json()["entries"][0]
    assert (newest["who"], newest["what"], newest["reason"]) == ("anna", "rollback", "this was a drill")


def test_changes_and_evidence_are_there(page: Page, site: Site) -> None:
    log_in(page, site)
    job = start(page, site, "vm2", "test")
    expect(page.locator(".verdict .badge")).to_be_visible(timeout=60_000)
    page.click("text=Changes in the guest")
    expect(page.locator("main")).to_contain_text("changes, in the order in which they were made")
    page.goto(f"{site.url}/api/v1/jobs/{job}/evidence.html")
    expect(page.locator("body")).to_contain_text("Refloat evidence")
    page.goto(f"{site.url}/jobs/{job}")
    picture = page.locator(".screens img").first
    assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
    page.click("summary:has-text('Roll back')")
    expect(page.locator(".rollback")).to_contain_text("Replication goes on")
    page.check(".rollback [name=confirmed]")
    page.click(".rollback button")
    expect(page.locator(".facts .badge", has_text="rolled back")).to_be_visible(timeout=60_000)


def test_a_failover_by_the_keyboard_alone(page: Page, site: Site) -> None:
    """From the login to the decision, without a mouse: each control is reached by Tab, and is seen to be."""
    page.goto(f"{site.url}/login")
    page.keyboard.type("anna")  # the first field has the focus
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Estate')")
    tab_to(page, "a", "vm3")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('vm3')")
    tab_to(page, "a", "Planned failover…")
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('Planned failover of vm3')")
    tab_to(page, "input", "")
    page.keyboard.press("Space")
    tab_to(page, "button", "Start")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs/vm3-*")
    expect(page.locator(".verdict .badge")).to_be_visible(timeout=60_000)
    tab_to(page, "summary", "Roll back")
    page.keyboard.press("Enter")
    expect(page.locator(".rollback [name=confirmed]")).to_be_visible()
    tab_to(page, "button", "")  # the first picture
    page.keyboard.press("Enter")
    expect(page.locator(".enlarged:popover-open img")).to_be_visible()
    page.screenshot(path=site.shots / "enlarged.png")
    page.keyboard.press("Escape")
    expect(page.locator(".enlarged:popover-open")).to_have_count(0)
    job = page.url.rpartition("/")[2]
    site.call("POST", f"/jobs/{job}/rollback", discard_writes=True)
    expect(page.locator(".facts .badge", has_text="rolled back")).to_be_visible(timeout=60_000)


FOCUSED = "[document.activeElement.localName, document.activeElement.textContent.trim()]"
SEEN = "getComputedStyle(document.activeElement).outlineStyle"


def tab_to(page: Page, kind: str, text: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(FOCUSED) == [kind, text]:
            assert page.evaluate(SEEN) == "solid", f"{kind} {text} does not show that it has the focus"
            return
    raise AssertionError(f"Tab does not lead to {kind} {text}")


def test_a_refusal_comes_up_where_one_looks(page: Page, site: Site) -> None:
    """vm4 has never been synced: the hub refuses, the page says why and what to do."""
    log_in(page, site)
    page.goto(f"{site.url}/targets/vm4/failover/test")
    page.click("button:has-text('Start')")
    expect(page.locator("#notice")).to_contain_text("target vm4 is provisioning")
    expect(page.locator("#notice")).to_contain_text("What to do")
    assert page.url.endswith("/targets/vm4/failover/test")


def test_the_list_filters_as_one_types(page: Page, site: Site) -> None:
    log_in(page, site)
    expect(page.locator("#rows tr")).to_have_count(4)
    page.fill("[name=search]", "vm3")
    expect(page.locator("#rows tr")).to_have_count(1)
    assert "search=vm3" in page.url
    page.reload()
    expect(page.locator("#rows tr")).to_have_count(1)
    page.fill("[name=search]", "")
    expect(page.locator("#rows tr")).to_have_count(4)
    page.screenshot(path=site.shots / "estate.png")
    page.select_option("[name=health]", "ok")  # vm4's controller was never asked
    expect(page.locator("#rows tr")).to_have_count(3)
    expect(page.locator("#rows")).to_contain_text("✓answers")
    page.select_option("[name=health]", "")
    page.fill("[name=search]", "<b>")
    expect(page.locator("#rows")).to_contain_text("No target fits")


def test_a_viewer_looks_and_cannot_act(page: Page, site: Site) -> None:
    log_in(page, site, "victor")
    page.goto(f"{site.url}/targets/vm3")
    expect(page.locator("h1")).to_have_text("vm3")
    expect(page.locator(".actions button, .actions a")).to_have_count(0)
    answer = page.goto(f"{site.url}/targets/vm3/failover/planned")
    assert answer is not None and answer.status == 403
    expect(page.locator("main")).to_contain_text("forbidden")
    assert page.goto(f"{site.url}/audit").status == 403  # type: ignore[union-attr]


def test_tokens_and_users(page: Page, site: Site) -> None:
    log_in(page, site)
    page.goto(f"{site.url}/access")
    page.fill("[name=label]", "monitoring")
    page.check("[name=scope][value=look]")
    page.click("text=Make a token")
    token = page.locator(".issued pre").inner_text()
    headers = {"authorization": f"Bearer {token}"}
    assert httpx.get(f"{site.url}/api/v1/me", headers=headers).json()["may"] == ["look"]
    page.goto(f"{site.url}/access")
    page.on("dialog", lambda dialog: dialog.accept())
    page.click("tr:has-text('monitoring') button:has-text('Revoke')")
    expect(page.locator("tr:has-text('monitoring')")).to_contain_text("revoked")
    assert httpx.get(f"{site.url}/api/v1/me", headers=headers).status_code == 401


def test_out_is_out(page: Page, site: Site) -> None:
    log_in(page, site)
    page.click("text=Log out")
    page.wait_for_url("**/login")
    page.goto(f"{site.url}/jobs")
    assert page.url.endswith("/login")


def test_a_form_of_another_site_does_nothing(context: BrowserContext, site: Site) -> None:
    """What an evil page can do: a form of its own, sent by the operator's browser."""
    page = context.new_page()
    log_in(page, site)
    evil = context.new_page()
    evil.set_content(f'<form method="post" action="{site.url}/targets/vm3/pause"><button>Win</button></form>')
    evil.click("button")
    evil.wait_for_load_state()
    assert not site.call("GET", "/targets/vm3").json()["paused"]


PAGES = ("/", "/targets/vm3", "/targets/vm3/failover/emergency", "/jobs", "/policies", "/audit", "/access")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_use_it(browser: Browser, site: Site, scheme: str) -> None:
    """axe finds nothing serious, in both colour schemes and on a phone, where nothing is wider than it."""
    # axe is a script of the test's, not of the page: the page's own policy would not let it in.
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]
        viewport={"width": 390, "height": 844},
        bypass_csp=True,
    )
    page = context.new_page()
    page.goto(f"{site.url}/login")
    check(page, site, f"login-{scheme}")
    page.fill("[name=name]", "anna")
    page.fill("[name=password]", PASSWORD)
    page.keyboard.press("Enter")  # no mouse needed
    page.wait_for_selector("h1:has-text('Estate')")
    for path in (*PAGES, f"/jobs/{site.call('GET', '/jobs').json()['jobs'][0]['id']}"):
        page.goto(f"{site.url}{path}")
        check(page, site, f"{path.strip('/').replace('/', '-') or 'estate'}-{scheme}")
    context.close()


def check(page: Page, site: Site, name: str) -> None:
    page.screenshot(path=site.shots / f"{name}.png", full_page=True)
    found = Axe().run(page).response["violations"]
    serious = [
        (one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")
    ]
    assert not serious, name
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{name} is {wide} pixels wider than a phone"
