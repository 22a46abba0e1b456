"use strict";
(() => {
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const line = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

  // --- theme: automatic, light, dark; kept where the browser lets a page from disk keep anything
  const themes = ["auto", "light", "dark"];
  const themeButton = document.getElementById("theme");
  const stored = () => { try { return localStorage.getItem("theme"); } catch { return null; } };
  const setTheme = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    themeButton.textContent = `Theme: ${theme}`;
    themeButton.setAttribute("aria-label", `Colour theme: ${theme === "auto" ? "automatic" : theme}`);
    themeButton.dataset.current = theme;
    try { localStorage.setItem("theme", theme); } catch { /* not kept */ }
  };
  setTheme(themes.includes(stored()) ? stored() : "auto");
  themeButton.addEventListener("click", () => {
    setTheme(themes[(themes.indexOf(themeButton.dataset.current) + 1) % themes.length]);
  });

  // --- a link into a folded part opens it
  const unfold = () => {
    const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target) for (const part of target.querySelectorAll(":scope > details")) part.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();

  // --- what goes on beyond its right edge fades out there
  for (const box of all(".scroll, .chart, .crop-row, .top nav")) {
    const update = () => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
    box.addEventListener("scroll", update, { passive: true });
    new ResizeObserver(update).observe(box);
  }

  // --- sortable tables: each group of rows sorts by itself; better first, then worse first, then as it was
  for (const table of all("table.sortable")) {
    const headings = all("thead tr:last-child th", table);
    const original = new Map(all("tbody", table).map((body) => [body, all("tr.row", body)]));
    const key = (row, column) => {
      const cell = row.children[column];
      if (column === 0) return cell.textContent.trim();
      if (cell.dataset.text !== undefined) return cell.dataset.text;
      return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
    };
    const compare = (column, order) => (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === null || y === null) return (x === null) - (y === null); // empty cells last, whatever the order
      return order * (typeof x === "string" ? x.localeCompare(y) : x - y);
    };
    headings.forEach((heading, column) => {
      const first = heading.dataset.direction === "up" ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      heading.querySelector("button").addEventListener("click", () => {
        const now = heading.getAttribute("aria-sort");
        const next = now === first ? second : now === second ? null : first;
        headings.forEach((other) => other.removeAttribute("aria-sort"));
        if (next) heading.setAttribute("aria-sort", next);
        for (const [body, rows] of original) {
          const sorted = next ? [...rows].sort(compare(column, next === "ascending" ? 1 : -1)) : rows;
          body.append(...sorted);
        }
      });
    });
  }

  // --- one tab stop a table: arrow keys, Home and End go from cell to cell (the ARIA grid pattern)
  for (const grid of all("table.sortable")) {
    const rows = () => all("thead tr:last-child, tr.row", grid).map((row) => all("button, [scope=row], td", row));
    const cells = rows().flat();
    let current = cells[0];
    for (const cell of cells) cell.tabIndex = cell === current ? 0 : -1;
    grid.addEventListener("focusin", (event) => {
      current.tabIndex = -1;
      current = event.target;
      current.tabIndex = 0;
    });
    grid.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
      const lines = rows(); // as they are sorted now
      const y = lines.findIndex((line) => line.includes(current));
      const x = lines[y].indexOf(current);
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -x], End: [0, lines[y].length - 1 - x] };
      if (!(event.key in steps)) return;
      event.preventDefault();
      const [down, along] = steps[event.key];
      const next = lines[y + down]?.[x + along];
      next?.scrollIntoView({ block: "nearest", inline: "center", behavior: "instant" }); // not under the first column
      next?.focus({ preventScroll: true });
    });
  }

  // --- where a figure comes from: on hover and focus; a click keeps it open until Escape, the next click or focus
  const origins = JSON.parse(document.getElementById("origins").textContent);
  const card = document.getElementById("origin");
  let pinned = null;
  const fill = (entry) => {
    card.replaceChildren(...entry.lines.map((text) => line("p", text)));
    if (entry.summary) card.append(line("p", entry.summary));
    const list = document.createElement("dl");
    for (const [name, value] of entry.details) list.append(line("dt", name), line("dd", value));
    if (entry.details.length) card.append(list);
  };
  const place = (element) => {
    const box = element.getBoundingClientRect();
    const width = card.offsetWidth;
    const x = Math.max(12, Math.min(box.left, document.documentElement.clientWidth - width - 12));
    const below = box.bottom + card.offsetHeight + 12 < window.innerHeight || box.top < card.offsetHeight + 12;
    card.style.left = `${x + window.scrollX}px`;
    card.style.top = `${(below ? Math.min(box.bottom, window.innerHeight - 40) + 6 : box.top - card.offsetHeight - 6) + window.scrollY}px`;
  };
  const open = (element) => {
    const entry = origins[Number(element.dataset.origin)];
    if (!entry || !(entry.lines.length || entry.summary || entry.details.length)) { close(); return; }
    fill(entry);
    card.hidden = false;
    place(element);
  };
  const close = () => { card.hidden = true; pinned = null; };
  const tellOrigin = (element) => {
    element.addEventListener("mouseenter", () => { if (!pinned) open(element); });
    element.addEventListener("mouseleave", () => { if (!pinned) card.hidden = true; });
    element.addEventListener("focus", () => { if (pinned !== element) { pinned = null; open(element); } });
    element.addEventListener("blur", () => { if (!pinned) card.hidden = true; });
    element.addEventListener("click", (event) => {
      if (pinned === element) { close(); } else { open(element); pinned = element; }
      event.stopPropagation();
    });
  };
  all("[data-origin]").forEach(tellOrigin);
  document.addEventListener("click", (event) => { if (!card.contains(event.target)) close(); });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  // --- before and after
  const left = document.getElementById("left");
  const right = document.getElementById("right");
  const exhibits = all(".exhibit");
  const show = (exhibit) => {
    const images = all(".stage img", exhibit);
    const find = (wanted) => images.find((image) => image.dataset.version === wanted) || images[0];
    const [before, after] = [find(left.value), find(right.value)];
    for (const image of images) {
      image.hidden = image !== before && image !== after;
      image.classList.toggle("is-left", image === before && image !== after);
    }
    const name = (image) => image.alt.slice(image.alt.indexOf(", ") + 2);
    exhibit.querySelector(".tag.left").textContent = name(before);
    exhibit.querySelector(".tag.right").textContent = name(after);
    const scored = [before, after].filter((image) => image.dataset.scores);
    exhibit.querySelector(".scores").replaceChildren(...scored.map((image) => {
      const text = line("span", `${name(image)} ${image.dataset.scores}`);
      text.dataset.origin = image.dataset.scored;
      tellOrigin(text);
      return text;
    }));
  };
  const showAll = () => exhibits.forEach(show);
  const split = (input) => { input.parentElement.style.setProperty("--split", `${input.value}%`); };
  if (left && right) {
    const versions = Array.from(left.options, (option) => option.value);
    left.value = versions.includes("bicubic") ? "bicubic" : "lq";
    right.value = versions.includes("full") ? "full" : "hq";
    left.addEventListener("change", showAll);
    right.addEventListener("change", showAll);
    for (const input of all(".stage input")) {
      input.addEventListener("input", () => split(input));
      split(input);
    }
    document.addEventListener("keydown", (event) => {
      const digit = /^Digit([1-9])$/.exec(event.code);
      if (!digit || event.ctrlKey || event.altKey || event.metaKey || event.target.matches("select")) return;
      const chosen = versions[Number(digit[1]) - 1];
      if (chosen === undefined) return;
      (event.shiftKey ? left : right).value = chosen;
      showAll();
      event.preventDefault();
    });
    showAll();
  }
})();
