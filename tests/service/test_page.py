"""The page of `lom-agent serve` in headless Chromium: what it shows, its keyboard, its rules, and axe-core's checks."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from axe import axe_script
from devtools import Browser
from started_service import Service, started_service
from switch import switch

pytestmark = pytest.mark.slow

CONNECTED = "document.querySelector('#connection').dataset.connected === 'true'"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with a lab and 30 Macs."""
    arguments = ("--lab", "--devices", "30", "--segment-size", "10", "--boot", "constant:0.1")
    with started_service(tmp_path_factory.mktemp("service"), *arguments) as started:
        yield started


@pytest.fixture(scope="module")
def manual(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Another service with the same token, other Macs and a manual clock."""
    folder = tmp_path_factory.mktemp("manual")
    token = folder / "token"
    token.write_text(service.token, encoding="utf-8")
    token.chmod(0o600)
    arguments = ("--token-file", str(token), "--clock", "manual", "--lab", "--devices", "4", "--seed", "other")
    with started_service(folder, *arguments) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for all tests here."""
    browser = Browser(tmp_path_factory.mktemp("browser"))
    try:
        browser.size(1400, 900)
        yield browser
    finally:
        browser.close()


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of the service, as it was after its start."""
    with service.client() as client:
        client.post("/v1/reset").raise_for_status()
        yield client


@pytest.fixture
def page(browser: Browser, service: Service, client: httpx.Client) -> Iterator[Browser]:
    """The page, connected. It has complained of nothing, and has asked no other host for anything."""
    open_page(browser, f"{service.url}/#token={service.token}")
    browser.wait(CONNECTED)
    yield browser
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith((f"{service.url}/", "data:,"))] == []


def open_page(browser: Browser, url: str) -> None:
    """Leave the page, whatever the address was, and open this one with nothing stored."""
    browser.leave()
    browser.open(url)
    browser.wait("document.readyState === 'complete' && document.querySelector('#connection')")


def text(browser: Browser, selector: str) -> str:
    """The text of one element."""
    return str(browser.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def wait_for_text(browser: Browser, selector: str, wanted: str) -> None:
    """Until the element has the text."""
    browser.wait(f"document.querySelector({json.dumps(selector)})?.textContent.includes({json.dumps(wanted)})")


def focus(browser: Browser, selector: str) -> None:
    """Give one element the focus."""
    browser.run(f"document.querySelector({json.dumps(selector)}).focus()")


def enter(browser: Browser) -> None:
    """Press Enter."""
    browser.press("Enter", "\r")


def open_first_mac(browser: Browser) -> None:
    """By keyboard: the table, in it the first Mac."""
    focus(browser, "#list-box summary")
    enter(browser)
    browser.wait("document.querySelector('#list button')")
    for _ in ("the table, which scrolls", "its first Mac"):
        browser.press("Tab")
    assert browser.run("document.activeElement.getAttribute('aria-label')").startswith("Details of Mac 0,")
    enter(browser)
    browser.wait("document.activeElement.id === 'detail-title'")


def add_rule(browser: Browser, **fields: str) -> None:
    """By the form, with Enter in its last field."""
    for name, value in fields.items():
        browser.run(f"document.getElementById('rule-{name}').value = {json.dumps(value)}")
    focus(browser, "#rule-more")
    enter(browser)


def test_the_counts_follow_the_macs(page: Browser, client: httpx.Client) -> None:
    wait_for_text(page, "#summary", "30 Macs, 0 enrolled")
    assert text(page, "[data-state=new]") == "new 30"
    for number in range(2):
        client.post(f"/v1/macs/{number}/enroll", json={}).raise_for_status()
    client.post("/v1/macs/7/network", json={"online": False}).raise_for_status()
    wait_for_text(page, "#summary", "30 Macs, 2 enrolled")
    wait_for_text(page, "#legend [data-state=new]", "new 27")
    wait_for_text(page, "#legend [data-state=offline]", "offline 1")
    client.post("/v1/macs", json={"count": 4}).raise_for_status()
    wait_for_text(page, "#summary", "34 Macs, 2 enrolled")


def test_a_mac_chosen_by_keyboard_shows_its_exchanges(page: Browser, client: httpx.Client) -> None:
    name = client.get("/v1/macs/0").json()["name"]
    open_first_mac(page)
    assert text(page, "#detail-title") == f"Mac 0: {name}"
    assert text(page, "#no-exchanges") == "None."
    client.post("/v1/macs/0/enroll", json={}).raise_for_status()
    wait_for_text(page, "#exchanges", "TokenUpdate")
    summaries = "[...document.querySelectorAll('#exchanges summary')]"
    page.run(f"{summaries}.find((each) => each.textContent.includes('Authenticate')).focus()")
    enter(page)
    wait_for_text(page, "#exchanges pre", '"MessageType": "Authenticate"')
    client.post("/v1/macs/0/connect").raise_for_status()
    wait_for_text(page, "#exchanges li", "Idle")  # a new one leaves what is open, and the focus
    assert page.run("document.activeElement.nextElementSibling.textContent").startswith("PUT ")
    wait_for_text(page, "#list tr:first-child", "idle")
    page.press("Escape")
    page.wait("document.querySelector('#detail').hidden")
    assert page.run("document.activeElement.getAttribute('aria-label')") == f"Details of Mac 0, {name}"


def test_a_button_of_the_detail_acts_on_the_mac(page: Browser, client: httpx.Client) -> None:
    open_first_mac(page)
    focus(page, "[data-power=cut_mains]")
    enter(page)
    wait_for_text(page, "#detail-facts", "no mains")
    assert client.get("/v1/macs/0").json()["power"] == "no_mains"
    page.wait("document.querySelector('[data-power=off]').getAttribute('aria-disabled') === 'true'")


def test_a_rule_of_the_form_appears_with_its_hits(page: Browser, client: httpx.Client) -> None:
    client.post("/v1/macs/3/enroll", json={}).raise_for_status()
    page.wait("document.querySelector('#rule-on').options.length")
    add_rule(page, on="session", do="delay", times="1", more='{"seconds": 0.01}')
    wait_for_text(page, "#rules tr", "delay 0.01 s, once a Mac")
    rule = client.get("/v1/rules").json()[0]
    assert (rule["rule"]["on"], rule["rule"]["times"], rule["hits"]) == ("session", 1, 0)
    client.post("/v1/macs/3/connect").raise_for_status()
    page.wait("document.querySelector('#rules tr td:nth-child(6)')?.textContent === '1'")
    page.run("document.querySelector('#rules button').click()")
    page.wait("!document.querySelector('#rules tr') && !document.querySelector('#no-rules').hidden")
    assert client.get("/v1/rules").json() == []


def test_invalid_form_is_reported(page: Browser) -> None:
    page.wait("document.querySelector('#rule-on').options.length")
    add_rule(page, more="seconds")
    wait_for_text(page, "#alert", "Expected a JSON object in Other keys")


def test_events_arrive_while_it_is_open(page: Browser, client: httpx.Client) -> None:
    mac = client.post("/v1/macs/4/power", json={"action": "cut_mains"}).raise_for_status().json()
    wait_for_text(page, "#events li", f"{mac['name']} has no mains power.")
    client.post("/v1/macs/5/network", json={"online": False}).raise_for_status()
    wait_for_text(page, "#events li", "is offline.")  # the newest is the first
    page.run("document.querySelector('#events li:first-child').click()")
    wait_for_text(page, "#detail-title", "Mac 5:")


def port_of(service: Service) -> int:
    """The port of its control API."""
    return int(service.url.rpartition(":")[2])


def test_after_a_restart_it_shows_the_new_service(
    browser: Browser, service: Service, client: httpx.Client, manual: Service
) -> None:
    added = client.post("/v1/macs", json={}).raise_for_status().json()[0]
    with switch() as between, manual.client() as other:
        other.post("/v1/reset").raise_for_status()
        between.turn(port_of(service))
        open_page(browser, f"http://127.0.0.1:{between.port}/#token={service.token}")
        wait_for_text(browser, "#summary", "31 Macs")
        assert browser.run("document.querySelector('#clock-form').hidden")
        open_first_mac(browser)
        between.turn(None)
        wait_for_text(browser, "#connection", "Connection lost; connecting again")
        assert not browser.run(CONNECTED)
        between.turn(port_of(service))
        browser.wait(CONNECTED)
        assert not browser.run("document.querySelector('#detail').hidden"), "it is the same service"
        client.delete(f"/v1/macs/{added['udid']}").raise_for_status()
        wait_for_text(browser, "#summary", "30 Macs")
        between.turn(None)
        wait_for_text(browser, "#connection", "Connection lost; connecting again")
        between.turn(port_of(manual))
        wait_for_text(browser, "#summary", "4 Macs, 0 enrolled")
        browser.wait(CONNECTED)
        assert text(browser, "#connection") == "Connected"
        assert browser.run("document.querySelector('#detail').hidden"), "the Mac is none of this service"
        assert browser.run("document.querySelector('#enroll-url').value") == manual.ready["lab"]["enroll_url"]
        assert not browser.run("document.querySelector('#clock-form').hidden")
        mac = other.post("/v1/macs/2/power", json={"action": "cut_mains"}).raise_for_status().json()
        wait_for_text(browser, "#events li", f"{mac['name']} has no mains power.")
        wait_for_text(browser, "#legend [data-state=off]", "off 1")
        browser.open("about:blank")


def test_the_form_advances_the_manual_clock(browser: Browser, manual: Service) -> None:
    with manual.client() as client:
        client.post("/v1/reset").raise_for_status()
        client.post("/v1/macs/0/power", json={"action": "reset"}).raise_for_status()
        open_page(browser, f"{manual.url}/#token={manual.token}")
        wait_for_text(browser, "#clock", "0.0 s; 1 timers, next in")
        browser.run("document.querySelector('#advance').value = '3600'")
        focus(browser, "#advance")
        enter(browser)
        wait_for_text(browser, "#clock", "3600.0 s; 0 timers")
        wait_for_text(browser, "#events li", "is on")
        assert client.get("/v1/clock").json()["seconds"] == 3600.0
        assert client.get("/v1/macs/0").json()["boots"] == 1
        assert browser.complaints == []


def test_a_lost_worker_is_shown(browser: Browser, tmp_path: Path) -> None:
    workers = ("--devices", "4", "--segment-size", "2", "--workers", "2")
    with started_service(tmp_path, *workers) as service:
        open_page(browser, f"{service.url}/#token={service.token}")
        wait_for_text(browser, "#summary", "4 Macs")
        os.kill(service.group()[1], signal.SIGKILL)
        wait_for_text(browser, "#summary", "2 Macs")
        for where in ("#alert", "#service", "#events li.bad"):
            wait_for_text(browser, where, "is lost, with the Macs")
        browser.open("about:blank")


def test_all_shown_macs_are_those_of_the_filter(page: Browser, client: httpx.Client) -> None:
    for name, value in (("filter-segment", "1"), ("bulk", "offline")):
        page.run(f"document.getElementById('{name}').value = '{value}'")
    page.run("document.querySelector('#filter-text').dispatchEvent(new Event('input', {bubbles: true}))")
    wait_for_text(page, "#shown", "10 of 30 shown")
    page.run("window.confirm = (question) => { window.asked = question; return window.agrees; }; window.agrees = false")
    apply = "document.querySelector('#bulk-form button').click()"
    page.run(apply)
    assert page.run("window.asked") == "Take offline: 10 Macs?"
    page.run("window.agrees = true")
    page.run(apply)
    wait_for_text(page, "#status", "Done for 10 Macs.")
    wait_for_text(page, "#legend [data-state=offline]", "offline 10")
    offline = [mac["number"] for mac in client.get("/v1/macs").json() if not mac["online"]]
    assert offline == list(range(10, 20))


def test_what_fails_for_some_of_all_shown_macs_is_told(page: Browser, client: httpx.Client) -> None:
    client.post("/v1/macs/3/power", json={"action": "cut_mains"}).raise_for_status()
    wait_for_text(page, "#legend [data-state=off]", "off 1")
    page.run("window.confirm = () => true; document.getElementById('bulk').value = 'on'")
    page.run("document.querySelector('#bulk-form button').click()")
    wait_for_text(page, "#alert", "1 of 30 failed; the first: ")
    page.complaints[:] = [each for each in page.complaints if "409 (Conflict)" not in each]


def test_without_a_token_it_asks_for_one(browser: Browser, service: Service, page: Browser) -> None:
    browser.run("sessionStorage.clear()")
    open_page(browser, f"{service.url}/")
    browser.wait("document.querySelector('#login').open")
    focus(browser, "#token")
    browser.call("Input.insertText", text=service.token)
    enter(browser)
    browser.wait(CONNECTED)
    assert browser.run("location.href") == f"{service.url}/"


def test_axe_finds_nothing_serious(page: Browser, client: httpx.Client, pytestconfig: pytest.Config) -> None:
    page.run(axe_script(pytestconfig.cache.mkdir("axe-core")) + ";0")
    client.post("/v1/rules", json={"on": "session", "do": "delay", "seconds": 0.01}).raise_for_status()
    client.post("/v1/macs/1/power", json={"action": "cut_mains"}).raise_for_status()
    open_first_mac(page)
    client.post("/v1/macs/0/enroll", json={}).raise_for_status()
    wait_for_text(page, "#exchanges", "TokenUpdate")
    page.run("document.querySelector('#exchanges summary').click()")
    page.wait("document.querySelector('#exchanges pre')")
    page.wait("document.querySelector('#rules tr') && document.querySelector('#operations tr')")
    for scheme, rules in (
        ("light", "{}"),
        ("dark", "{runOnly: ['color-contrast']}"),
    ):  # dark has other colours, no more
        page.colours(scheme)
        found: list[dict[str, Any]] = page.run(f"axe.run({rules}).then((found) => found.violations)")
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in serious] == [], scheme
