// Draws the diagrams of a page, in the colours of the theme that the reader has chosen.
import { mermaid } from "./mermaid/index.js";

const diagrams = [...document.querySelectorAll("pre.mermaid")].map((element) => ({ element, text: element.textContent }));
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
let drawn = null;

function dark() {
  const theme = document.body.dataset.theme;
  return theme === "dark" || (theme !== "light" && prefersDark.matches);
}

async function draw() {
  if (drawn === dark()) return;
  drawn = dark();
  const font = getComputedStyle(document.body).fontFamily;
  mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme: drawn ? "dark" : "neutral", fontFamily: font });
  for (const [number, { element, text }] of diagrams.entries()) {
    // An id of its own for each theme: Mermaid takes away what has the id that it is given.
    const { svg } = await mermaid.render(`diagram-${number}-${drawn ? "dark" : "light"}`, text);
    element.innerHTML = svg;
    element.classList.add("drawn");
  }
}

if (diagrams.length) {
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-theme"] });
  prefersDark.addEventListener("change", draw);
  draw();
}
