"""The page in a real browser, as somebody uses it."""

import threading
import time
from urllib.parse import quote

import pytest
import requests
import uvicorn

from jobs.serving.app import make_app
from jobs.serving.limits import ServeLimits
from pipelines.manifest import load_manifest
from tests.browser import CHROMIUM, browser
from tests.served import BROKEN, HOSTILE, SEGMENT, caption_of, open_world
from tests.servers import free_ports

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH"),
]
# Shorter than the videos, so that the player has to ask again and again.
LIMITS = ServeLimits(max_range_bytes=2048, piece_bytes=1000)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def address(root):
    (port,) = free_ports(1)
    service = open_world(root, limits=LIMITS)
    server = uvicorn.Server(uvicorn.Config(make_app(service), host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def fresh(tab):
    tab.show(width=1200, height=900)
    tab.errors.clear()


def texts(tab, selector):
    return tab.ask(f"[...document.querySelectorAll('{selector}')].map(node => node.textContent)")


def surprises(tab):
    """Errors of the page, but for the browser's own lines about the still that nobody can make."""
    return [error for error in tab.errors if "status of 415" not in error]


def search(tab, address, words):
    tab.open(address)
    tab.wait_for("document.activeElement.id === 'query' && document.querySelector('#model').textContent")
    tab.type(words)
    tab.press("Enter")
    tab.wait_for("document.querySelectorAll('.card').length && !document.querySelector('[aria-busy]')")


def test_words_find_videos_and_stand_in_the_address(tab, address):
    search(tab, address, caption_of(4))
    assert texts(tab, ".captions")[0] == caption_of(4)
    assert tab.ask("location.search") == f"?{quote('q=' + caption_of(4), safe='=').replace('%20', '+')}"
    tab.wait_for("document.querySelector('.card img').naturalWidth > 0")
    assert "score 1.000" in texts(tab, ".facts")[0]
    found = texts(tab, ".captions")
    tab.open(tab.ask("location.href"))
    tab.wait_for("document.querySelectorAll('.card').length")
    assert texts(tab, ".captions") == found
    assert surprises(tab) == []


def test_a_click_plays_the_segment(tab, address, root):
    uid = load_manifest(str(root / "shards")).table["uid"].to_pylist()[3]
    size = int(requests.head(f"{address}/videos/{uid}", timeout=10).headers["content-length"])
    assert size > 2 * LIMITS.max_range_bytes
    search(tab, address, caption_of(3))
    assert texts(tab, ".card:first-child .time") == ["0:01 – 0:02"]
    tab.click(".card:first-child .play")
    start, end = SEGMENT
    tab.wait_for(f"document.querySelector('video')?.currentTime >= {start}")
    assert tab.ask("document.querySelector('video').currentTime") < end + 0.5
    assert tab.ask("document.querySelector('video').currentSrc").endswith(f"/videos/{uid}#t=1,2")
    tab.wait_for("document.querySelector('video').paused")
    assert tab.ask("document.querySelector('video').currentTime") == pytest.approx(end, abs=0.3)
    assert surprises(tab) == []


def test_more_like_this_and_back(tab, address):
    search(tab, address, caption_of(2))
    assert texts(tab, ".captions")[0] in (HOSTILE, caption_of(2))
    own = tab.ask("document.querySelector('.facts span').textContent")
    tab.click(".card:first-child .like")
    tab.wait_for("location.search.startsWith('?like=') && !document.querySelector('[aria-busy]')")
    tab.wait_for("!document.querySelector('#about').hidden")
    assert own not in tab.ask("[...document.querySelectorAll('.facts span:first-child')].map(node => node.textContent)")
    tab.ask("history.back()")
    tab.wait_for(f"document.querySelector('.facts span')?.textContent === '{own}'")
    assert tab.ask("document.querySelector('#query').value") == caption_of(2)
    assert surprises(tab) == []


def test_captions_are_text(tab, address):
    search(tab, address, caption_of(2))
    assert HOSTILE in texts(tab, ".captions")
    assert "F-Pig" in tab.ask("document.title")
    assert surprises(tab) == []


def test_kept_patches_are_shown(tab, address):
    search(tab, address, caption_of(0))
    tab.click(".card:first-child .tokens")
    tab.wait_for("document.querySelector('dialog').open && document.querySelector('#kept-picture').naturalWidth > 100")
    tab.press("Escape")
    tab.wait_for("!document.querySelector('dialog').open")
    assert surprises(tab) == []


def test_conditions_filter_and_wrong_ones_are_explained(tab, address):
    tab.open(f"{address}/?q=a&where={quote('start_s|>=|0.5')}")
    tab.wait_for("document.querySelectorAll('.card').length")
    assert tab.ask("[...document.querySelectorAll('.card')].every(card => card.querySelector('.time'))")
    assert tab.ask("document.querySelector('#conditions input').value") == "0.5"
    tab.ask("document.querySelector('#conditions input').value = '99'")
    tab.click("#filters [type=submit]")
    tab.wait_for("document.querySelector('#status').textContent.startsWith('No video meets')")
    assert surprises(tab) == []
    tab.open(f"{address}/?q=a&where={quote('nothing|==|1')}")
    tab.wait_for("!document.querySelector('#trouble').hidden")
    assert "a condition on 'nothing'" in texts(tab, "#trouble")[0]
    assert [error for error in surprises(tab) if "status of 422" not in error] == []


def test_a_video_that_nobody_can_show_has_a_place_of_its_own(tab, address):
    tab.open(f"{address}/?q={quote(caption_of(BROKEN))}")
    names = "card.querySelector('.facts span').textContent"
    card = f"[...document.querySelectorAll('.card')].find(card => {names} === 'video{BROKEN}')"
    tab.wait_for("document.querySelectorAll('.card').length")
    tab.ask(f"{card}.scrollIntoView()")
    tab.wait_for(f"{card}.querySelector('.missing')")
    tab.ask(f"{card}.querySelector('.play').click()")
    tab.wait_for(f"{card}.querySelector('.missing')?.textContent.startsWith('This video cannot be played')")


def test_the_keyboard_is_enough(tab, address):
    search(tab, address, caption_of(1))
    tab.ask("document.activeElement.blur()")
    for _ in range(2):
        tab.press("j")
    assert tab.ask("[...document.querySelectorAll('.card')].indexOf(document.activeElement.closest('.card'))") == 1
    tab.press("k")
    tab.press("Enter")
    tab.wait_for("document.querySelector('.card:first-child video')")
    tab.press("m")
    tab.wait_for("location.search.startsWith('?like=')")
    tab.press("/")
    assert tab.ask("document.activeElement.id") == "query"
    assert surprises(tab) == []


@pytest.mark.parametrize(("width", "is_dark"), [(390, False), (390, True), (1280, True)])
def test_nothing_is_wider_than_the_window(tab, address, width, is_dark):
    tab.show(width=width, height=800, is_dark=is_dark)
    tab.open(f"{address}/?q=a+red+square&where={quote('start_s|>=|0.5')}")
    tab.wait_for("document.querySelectorAll('.card').length")
    assert tab.ask("document.documentElement.scrollWidth") <= width
    back = tab.ask("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not is_dark
