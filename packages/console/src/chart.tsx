/** Charts over time, by uPlot. Beside each stands the same as a table, or a sentence. */
import { useEffect, useRef } from "react";
import UPlot from "uplot";

export interface Series {
  readonly label: string;
  /** A colour's name in the style sheet, such as `--bad`. */
  readonly colour: string;
  readonly values: ReadonlyArray<number>;
}

interface ChartProps {
  /** Seconds since 1970. */
  readonly times: ReadonlyArray<number>;
  readonly series: ReadonlyArray<Series>;
  readonly height: number;
  /** One line without axes. */
  readonly isSparkline?: boolean;
  /** What it shows, in words. */
  readonly summary: string;
}

// Asked for at each drawing: the theme may be another one by then.
const colourOf = (name: string) => () => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const darkness = matchMedia("(prefers-color-scheme: dark)");

export const Chart = ({ height, isSparkline = false, series, summary, times }: ChartProps) => {
  const place = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = place.current;
    if (element === null || times.length === 0) return;
    const ink = colourOf("--muted");
    const grid = { stroke: colourOf("--line"), width: 1 };
    const axis = { stroke: ink, grid, ticks: grid, font: "12px system-ui" };
    const chart = new UPlot(
      {
        width: element.clientWidth,
        height,
        cursor: { show: !isSparkline },
        legend: { show: !isSparkline },
        scales: { y: { range: (_, __, most) => [0, Math.max(most, 1)] } },
        axes: isSparkline ? [{ show: false }, { show: false }] : [axis, { ...axis, size: 44 }],
        ...(isSparkline ? { padding: [2, 0, 2, 0] } : {}),
        series: [
          {},
          ...series.map(({ colour, label }) => ({
            label,
            stroke: colourOf(colour),
            width: isSparkline ? 1.5 : 2,
            points: { show: false },
            ...(isSparkline ? {} : { fill: () => `${colourOf(colour)()}22` }),
          })),
        ],
      },
      [[...times], ...series.map(({ values }) => [...values])],
      element,
    );
    const resized = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height }));
    resized.observe(element);
    const redraw = () => chart.redraw();
    darkness.addEventListener("change", redraw);
    const themed = new MutationObserver(redraw);
    themed.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
    return () => {
      resized.disconnect();
      themed.disconnect();
      darkness.removeEventListener("change", redraw);
      chart.destroy();
    };
  }, [height, isSparkline, series, times]);
  return <div ref={place} role="img" aria-label={summary} className={isSparkline ? "sparkline" : "chart"} />;
};
