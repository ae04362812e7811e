// Opens a page in a real headless browser at several widths: node look.mjs URL FOLDER WIDTH...
// Prints a JSON list: for each width, what the page asked for, complained of, and measures. FOLDER gets a picture each.
import chromium from "@sparticuz/chromium";
import { chromium as playwright } from "playwright-core";

const [url, folder, ...widths] = process.argv.slice(2);
const browser = await playwright.launch({
  executablePath: await chromium.executablePath(),
  args: ["--headless=shell", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
});
const looks = [];
for (const width of widths.map(Number)) {
  const page = await browser.newPage({ viewport: { width, height: 800 } });
  const look = { width, asked: [], complaints: [] };
  page.on("request", (request) => look.asked.push(request.url()));
  page.on("console", (message) => look.complaints.push(message.text()));
  page.on("pageerror", (error) => look.complaints.push(String(error)));
  await page.goto(url, { waitUntil: "networkidle" });
  Object.assign(look, await page.evaluate(() => {
    const rect = (element) => element.getBoundingClientRect();
    const texts = [...document.querySelectorAll("h1, h3, p, li, td, th")].filter((element) => element.innerText.trim());
    const sections = [...document.querySelectorAll("section")];
    return {
      page_px: document.documentElement.scrollWidth,
      smallest_font_px: Math.min(...texts.map((element) => parseFloat(getComputedStyle(element).fontSize))),
      // tables may scroll; everything else has to be inside the window
      outside: texts.filter((element) => !element.closest("table") && rect(element).right > innerWidth + 1)
        .map((element) => element.innerText),
      tables_px: [...document.querySelectorAll("table")].map((element) => rect(element).width),
      sections: sections.length,
      overlaps: sections.filter((element, at) => at && rect(element).top < rect(sections[at - 1]).bottom).length,
    };
  }));
  await page.screenshot({ path: `${folder}/${width}.png`, fullPage: true });
  await page.close();
  looks.push(look);
}
await browser.close();
console.log(JSON.stringify(looks));
