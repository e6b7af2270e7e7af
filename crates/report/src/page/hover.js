// Shows the values of figures beside the pointer. The page is complete without it: the tables have the same numbers,
// and the values of heat maps are read from them.
"use strict";
(() => {
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.hidden = true;
  document.body.append(tip);

  const show = (text, event) => {
    tip.textContent = text;
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const y = event.clientY + 14 + height > innerHeight ? event.clientY - height - 14 : event.clientY + 14;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  };

  // Without removing the title, the browser would show it a second time.
  const said = (group) => {
    const title = group.querySelector("title");
    if (title) {
      group.dataset.said = title.textContent;
      title.remove();
    }
    return group.dataset.said;
  };

  const tables = new WeakMap();
  const table = (image) => {
    const section = image.closest(".figure");
    if (!tables.has(section)) {
      const plain = section.querySelector("pre.plain");
      const lines = plain
        ? plain.textContent.replace(/\n$/, "").split("\n").map((line) => line.split("\t"))
        : Array.from(section.querySelectorAll("table tr"), (row) => Array.from(row.cells, (cell) => cell.textContent));
      tables.set(section, lines);
    }
    return tables.get(section);
  };

  const cell = (image, event) => {
    const lines = table(image);
    const [rows, columns] = [lines.length - 1, lines[0].length - 1];
    const transposed = "transposed" in image.dataset;
    const box = image.getBoundingClientRect();
    const at = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));
    const x = at((event.clientX - box.left) / box.width, transposed ? rows : columns);
    const height = transposed ? columns : rows;
    const top = at((event.clientY - box.top) / box.height, height);
    const y = "down" in image.dataset ? top : height - 1 - top;
    const [row, column] = transposed ? [x, y] : [y, x];
    const [side, above] = lines[0][0].split(", by ");
    const value = lines[row + 1][column + 1] || "no value";
    return `${side} ${lines[row + 1][0]}\n${above} ${lines[0][column + 1]}\n${value}`;
  };

  const point = (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const group = target && target.closest("g.tip");
    const image = target && target.closest("image.cells");
    if (group) show(said(group), event);
    else if (image) show(cell(image, event), event);
    else tip.hidden = true;
  };
  document.addEventListener("pointermove", point);
  document.addEventListener("pointerdown", point);
  document.addEventListener("scroll", () => { tip.hidden = true; }, true);
})();
