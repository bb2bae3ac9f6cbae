// Browsers start no workers from a disk. There, the search runs in a hidden frame that speaks like a worker.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = Object.assign(document.createElement("iframe"), { hidden: true });
      this.ready = new Promise((ready) => frame.addEventListener("load", ready));
      frame.srcdoc = `<script>postMessage = (data) => frameElement.dispatchEvent(new CustomEvent("answer", { detail: data }))<\/script><script src="${url}"><\/script>`;
      frame.addEventListener("answer", ({ detail }) => this.dispatchEvent(new MessageEvent("message", { data: detail })));
      document.documentElement.append(frame);
      this.frame = frame;
    }
    async postMessage(data) {
      await this.ready;
      this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data }));
    }
  };
}
