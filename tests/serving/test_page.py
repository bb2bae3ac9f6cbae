"""The page in a real browser: it types, waits, hovers and clicks, and writes down what it sees."""

import asyncio
import html
import json
import re
import shutil
import subprocess
from importlib.resources import files

import pytest

pytest.importorskip("uvicorn")

from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from jaxgpt.serving.app import HEADERS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

POLICY = HEADERS["Content-Security-Policy"].replace("img-src", "img-src 'self'")

VISITOR = """
<img src="wait" alt="" hidden>
<script>
(async () => {
  const until = async (what, good) => {
    for (let i = 0; !good(); i++) {
      if (i > 6000) throw new Error("waited for " + what + ": " + document.getElementById("status").textContent);
      await new Promise(done => setTimeout(done, 20));
    }
  };
  const tokens = () => [...document.querySelectorAll("#text .token")];
  const ended = () => document.getElementById("stop").disabled;
  const saw = {};
  try {
    document.getElementById("prompt").value = "low newer";
    document.getElementById("temperature").value = 0;
    document.getElementById("count").value = 12;
    document.getElementById("go").click();
    await until("tokens", () => tokens().length >= 12 && ended());
    saw.text = document.getElementById("text").textContent;
    saw.name = document.getElementById("name").textContent;
    tokens()[5].dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
    const choices = [...document.querySelectorAll("#choices button")];
    saw.choices = choices.map(choice => choice.textContent);
    saw.taken = choices.map(choice => choice.className);
    const box = document.getElementById("choices").getBoundingClientRect();
    saw.inside = box.left >= 0 && box.right <= innerWidth;
    choices[1].click();
    await until("the other way", () => tokens().length === 6 + 12 && ended());
    saw.branch = document.getElementById("text").textContent;
    saw.hidden = document.getElementById("choices").hidden;
    saw.wide = document.documentElement.scrollWidth <= innerWidth;
    document.getElementById("count").value = 1000;
    document.getElementById("window").value = 5;
    document.getElementById("go").click();
    await until("too many", () => ended() && document.getElementById("status").textContent.includes("tokens, "));
    saw.status = document.getElementById("status").textContent;
    tokens()[3].dispatchEvent(new MouseEvent("mouseover", {bubbles: true}));
  } catch (error) { saw.error = error.message; }
  document.body.dataset.saw = JSON.stringify(saw);
  await fetch("done");
})();
</script>
"""


def visit(address, width, *flags):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"]
    flags = (*flags, f"--window-size={width},900", f"{address}/visit")
    return subprocess.run([*command, *flags], capture_output=True, text=True, timeout=240, check=True).stdout


def with_visitor(app):
    page = (files("jaxgpt.serving") / "page.html").read_text(encoding="utf-8").replace("</body>", VISITOR + "</body>")
    left = asyncio.Event()

    async def wait(request):
        """The page is loaded when this image is: a browser writes down what is there then."""
        await left.wait()
        return Response()

    async def done(request):
        left.set()
        return Response()

    async def visit(request):
        left.clear()
        return HTMLResponse(page, headers=HEADERS | {"Content-Security-Policy": POLICY})

    app.routes.extend([Route("/visit", visit), Route("/wait", wait), Route("/done", done)])


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_visitor_continues_a_text_and_goes_another_way(serve, model, tokenizer):
    from tests.serving.test_app import alone

    address, _ = serve(app=with_visitor)
    dom = visit(address, 1280, "--dump-dom")
    saw = json.loads(html.unescape(re.search(r'data-saw="([^"]*)"', dom)[1]))
    assert "error" not in saw, saw
    expected = alone(model, tokenizer, "low newer", 12)
    assert saw["name"] == "tiny"
    assert saw["text"] == "low newer" + "".join(tokenizer.decode([token]) for token in expected)
    assert len(saw["choices"]) == 5
    shares = [float(re.search(r"([\d.]+) %$", choice)[1]) for choice in saw["choices"]]
    assert shares == sorted(shares, reverse=True)
    assert saw["taken"] == ["taken", "", "", "", ""]
    assert saw["branch"].startswith("low newer" + "".join(tokenizer.decode([token]) for token in expected[:5]))
    assert not saw["branch"].startswith(saw["text"])
    assert saw["hidden"]
    assert saw["inside"]
    assert saw["wide"]
    assert saw["status"].split()[0] == "63"


def test_the_page_needs_no_network_and_no_framework():
    page = (files("jaxgpt.serving") / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"https?://", page)
