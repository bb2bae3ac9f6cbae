// The plots: Vega is in this page, packed. Where it cannot be unpacked or fails, the still pictures stay.
(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("vega").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const code = new Blob([await new Response(stream).text()], { type: "text/javascript" });
  const url = URL.createObjectURL(code);
  await new Promise((done, failed) => {
    const script = Object.assign(document.createElement("script"), { type: "module", src: url, onload: done, onerror: failed });
    document.head.append(script);
  });
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = async () => {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const config = {
      background: null, view: { stroke: null }, font: "system-ui, sans-serif",
      axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
      legend: { labelColor: ink, titleColor: ink }, title: { color: ink },
    };
    for (const place of document.querySelectorAll(".live")) {
      const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
      await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", config });
    }
    document.documentElement.dataset.plots = document.querySelectorAll(".live svg").length;
  };
  await show();
  dark.addEventListener("change", show);
})();
