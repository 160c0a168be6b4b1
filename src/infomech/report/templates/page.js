(function () {
  "use strict";
  var charts = JSON.parse(document.getElementById("charts").textContent);
  var options = { responsive: true, displaylogo: false, displayModeBar: false, scrollZoom: false };

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

  function draw() {
    var style = getComputedStyle(document.documentElement);
    Object.keys(charts).forEach(function (id) {
      var place = document.getElementById(id);
      var spec = coloured(charts[id], style);
      if (place.clientWidth < 480) {
        spec.layout.font.size = 12;
      }
      Plotly.react(place, spec.data, spec.layout, options);
    });
  }

  draw();
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
})();
