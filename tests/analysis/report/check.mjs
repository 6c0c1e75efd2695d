// Opens every page in light, dark, narrow and print; fails on console errors, requests to
// anywhere else, serious accessibility faults, sideways scrolling, or controls that do nothing.
import {execSync} from "node:child_process";
import {readdirSync, readFileSync, existsSync} from "node:fs";
import {createRequire} from "node:module";
import {resolve} from "node:path";
import {pathToFileURL} from "node:url";

const require = createRequire(import.meta.url);
const {chromium} = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const folder = resolve(process.argv[2]);
let found = "";
try { found = execSync("command -v chromium", {encoding: "utf8"}).trim(); } catch { /* the cached one */ }
const browser = await chromium.launch({executablePath: found || undefined, args: ["--no-sandbox", "--disable-quic", "--disable-gpu"]}).catch(error => {
  console.error(`check-report: chromium does not start: ${error.message.split("\n")[0]}`);
  process.exit(2);
});
const faults = [];

// A busy machine can fail to take a large picture.
async function capture(page, options, fault, tries = 3) {
  try { await page.screenshot(options); } catch (error) {
    if (tries > 1) return capture(page, options, fault, tries - 1);
    fault(`no screenshot: ${error.message.split("\n")[0]}`);
  }
}

async function tryControls(page, fault) {
  const said = await page.evaluate(() => {
    const out = [];
    const order = t => [...t.tBodies[0].rows].map(r => r.cells[0].textContent).join("|");
    for (const table of document.querySelectorAll("table.sortable")) {
      if (table.tBodies[0].rows.length < 2) continue;
      const button = table.querySelector("th button");
      button.click(); const up = order(table); button.click();
      if (table.tHead.querySelector("[aria-sort]")?.getAttribute("aria-sort") !== "descending") out.push("aria-sort is not set");
      const values = new Set(up.split("|"));
      if (values.size > 1 && up === order(table)) out.push("sorting changes nothing");
    }
    const slider = document.querySelector("input[type=range]");
    if (slider) {
      const cells = () => [...document.querySelectorAll(".cell")].map(c => +(c.getAttribute("fill-opacity") ?? 1));
      const same = (a, b) => a.every((value, i) => Math.abs(value - b[i]) < 0.011);
      const before = cells();
      slider.value = 0; slider.dispatchEvent(new Event("input"));
      if (same(before, cells())) out.push("the slider changes nothing");
      slider.value = slider.max; slider.dispatchEvent(new Event("input"));
      if (!same(before, cells())) out.push("the slider does not come back");
    }
    return out;
  });
  said.forEach(fault);
  const area = page.locator("figure .scroll").first();
  if (await area.count()) {
    await area.focus();
    await page.keyboard.press("ArrowRight");
    await page.keyboard.press("ArrowRight");
    if (!(await page.locator("#tip").isVisible())) fault("arrow keys show no value");
    await page.keyboard.press("Escape");
    await page.locator("figure [data-tip]").first().hover();
    if (!(await page.locator("#tip").isVisible())) fault("hovering shows no value");
  }
}

for (const name of readdirSync(folder).filter(n => existsSync(`${folder}/${n}/report.html`))) {
  for (const [look, scheme, width, media] of [
    ["light", "light", 1280, "screen"], ["dark", "dark", 1280, "screen"],
    ["narrow", "light", 390, "screen"], ["print", "dark", 1000, "print"],
  ]) {
    const page = await browser.newPage({viewport: {width, height: 900}, colorScheme: scheme});
    const fault = text => faults.push(`${name}, ${look}: ${text}`);
    page.on("console", m => ["error", "warning"].includes(m.type()) && fault(`console: ${m.text()}`));
    page.on("pageerror", e => fault(`script: ${e.message}`));
    page.on("request", r => /^(file|data):/.test(r.url()) || fault(`asks for ${r.url()}`));
    page.on("dialog", d => { fault(`dialog: ${d.message()}`); d.dismiss(); });
    await page.emulateMedia({media, colorScheme: scheme});
    await page.goto(pathToFileURL(`${folder}/${name}/report.html`).href);
    if (look === "light") await tryControls(page, fault);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    if (wide > 1 && media === "screen") fault(`${wide} pixels wider than the window`);
    if (media === "screen" && name !== "large") {
      await page.evaluate(axe);
      const {violations} = await page.evaluate(() => axe.run());
      for (const v of violations) {
        if (["serious", "critical"].includes(v.impact)) fault(`${v.id}: ${v.help} (${v.nodes.length}: ${v.nodes[0].target})`);
      }
    }
    const height = Math.min(await page.evaluate(() => document.documentElement.scrollHeight), 8000);
    await capture(page, {path: `${folder}/${name}-${look}.png`, fullPage: true, clip: {x: 0, y: 0, width, height}}, fault);
    await page.close();
  }
}
await browser.close();
faults.forEach(text => console.error(text));
console.log(faults.length ? `${faults.length} faults` : `no faults; screenshots are in ${folder}`);
process.exit(faults.length ? 1 : 0);
