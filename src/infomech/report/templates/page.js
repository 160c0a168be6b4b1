(function () {
  "use strict";
  var charts = JSON.parse(document.getElementById("charts").textContent);
  var options = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false, typesetMath: false };

  // Colours are written as names of CSS variables, so that one palette serves the page and the charts, light and dark.
  function coloured(value, style) {
    if (typeof value === "string") {
      var name = /^var\((--[a-z0-9-]+)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map(function (item) { return coloured(item, style); });
    }
    if (value !== null && typeof value === "object") {
      var out = {};
      Object.keys(value).forEach(function (key) { out[key] = coloured(value[key], style); });
      return out;
    }
    return value;
  }

  function choose(chart, at) {
    var choice = chart.choices[at];
    chart.data.forEach(function (trace) { 
      trace.x = choice.x;
      trace.error_x = choice.error_x;
      trace.textposition = choice.textposition;
    });
    chart.layout.xaxis.title.text = choice.title;
  }

  // Plots have the width of the screen until they are told that of the paper, A4 less its margins in CSS pixels. There
  // they are lower, so that fewer of them leave most of a page empty.
  var PAPER = 700, GAP = 20, LOWER = 0.72;
  function draw() {
    var style = getComputedStyle(document.documentElement);
    var printed = document.documentElement.classList.contains("on-paper");
    Object.keys(charts).forEach(function (id) {
      var place = document.getElementById(id);
      var spec = coloured(charts[id], style);
      var width = place.clientWidth;
      if (printed) {
        width = place.closest(".split:not(.tabled), .pair") ? (PAPER - GAP) / 2 : PAPER;
        spec.layout.width = width;
        var named = spec.data.filter(function (trace) { return trace.name && trace.showlegend !== false; });
        if (named.length <= 4) {  // a long legend takes what there is
          spec.layout.height = Math.round(LOWER * spec.layout.height);
        }
      }
      if (width < 480) {
        spec.layout.font.size = 12;
        if (spec.narrow) {
          spec.layout.xaxis.range = spec.narrow;
        }
      }
      Plotly.react(place, spec.data, spec.layout, options);
    });
  }

  var chooser = document.getElementById("choose-gap");
  if (chooser) {
    chooser.addEventListener("change", function () {
      choose(charts["chart-tradeoff"], chooser.selectedIndex);
      draw();
    });
  }
  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // A table that is wider than its box says so, and fades where more of it is hidden.
  document.querySelectorAll(".scroll").forEach(function (box) {
    function mark() {
      box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
      box.classList.toggle("more", box.scrollWidth > box.clientWidth + box.scrollLeft + 1);
    }
    new ResizeObserver(mark).observe(box);
    box.addEventListener("scroll", mark, { passive: true });
    mark();
  });

  // Paper is light.
  function sized(printed) {
    document.documentElement.classList.toggle("on-paper", printed);
    draw();
    if (!printed) {
      Object.keys(charts).forEach(function (id) { Plotly.relayout(id, { width: null, autosize: true }); });
    }
  }
  window.addEventListener("beforeprint", function () { sized(true); });
  window.addEventListener("afterprint", function () { sized(false); });
})();
