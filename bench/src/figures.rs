//! The figures, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// A group of bars: one bar for each series, each bar a pile of parts.
pub struct Group {
    /// Under the group.
    pub label: String,
    /// For each series, its parts from the bottom, in the unit of the axis; empty where nothing was measured.
    pub bars: Vec<Vec<f64>>,
}

/// A chart of piled bars.
pub struct Chart<'a> {
    /// Over it.
    pub title: &'a str,
    /// Beside the vertical axis.
    pub axis: &'a str,
    /// Names of the series, by their place in a group; shown by number.
    pub series: &'a [&'a str],
    /// Names of the parts, by colour. With one part, colours tell the series instead.
    pub parts: &'a [&'a str],
    /// The groups.
    pub groups: &'a [Group],
}

/// A line.
pub struct Line<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its points, from the left.
    pub points: Vec<(f64, f64)>,
}

const COLOURS: [RGBColor; 10] = [
    RGBColor(0x4e, 0x79, 0xa7),
    RGBColor(0xf2, 0x8e, 0x2b),
    RGBColor(0xe1, 0x57, 0x59),
    RGBColor(0x76, 0xb7, 0xb2),
    RGBColor(0x59, 0xa1, 0x4f),
    RGBColor(0xed, 0xc9, 0x48),
    RGBColor(0xb0, 0x7a, 0xa1),
    RGBColor(0xff, 0x9d, 0xa7),
    RGBColor(0x9c, 0x75, 0x5f),
    RGBColor(0xba, 0xb0, 0xac),
];

/// Draws it. The vertical axis is logarithmic when the bars have one part and differ by more than a factor of 50.
pub fn draw(chart: &Chart<'_>, path: &Path) -> Result<()> {
    let totals = || chart.groups.iter().flat_map(|group| &group.bars).map(|bar| bar.iter().sum::<f64>()).filter(|total| *total > 0.0);
    let top = totals().fold(0.0, f64::max);
    if top <= 0.0 {
        return Ok(());
    }
    let least = totals().fold(f64::INFINITY, f64::min);
    let logarithmic = chart.parts.len() <= 1 && top / least > 50.0;
    draw_on(chart, path, top * if logarithmic { 2.0 } else { 1.1 }, logarithmic.then_some(least / 2.0))
        .map_err(|error| anyhow!("{}: {error}", path.display()))
}

/// Draws lines over a horizontal axis; both axes begin at zero and are named.
pub fn lines(title: &str, axes: (&str, &str), lines: &[Line<'_>], path: &Path) -> Result<()> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let (right, top) = points().fold((0.0, 0.0), |(right, top), (x, y)| (f64::max(right, *x), f64::max(top, *y)));
    if right <= 0.0 || top <= 0.0 {
        return Ok(());
    }
    lines_on(title, axes, lines, path, (right, top * 1.2)).map_err(|error| anyhow!("{}: {error}", path.display()))
}

fn lines_on(
    title: &str,
    axes: (&str, &str),
    lines: &[Line<'_>],
    path: &Path,
    (right, top): (f64, f64),
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut context = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..right, 0.0..top)?;
    context.configure_mesh().disable_x_mesh().x_desc(axes.0).y_desc(axes.1).draw()?;
    for (line, colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        context
            .draw_series(LineSeries::new(line.points.iter().copied(), colour))?
            .label(line.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    let labels = SeriesLabelPosition::UpperRight;
    context.configure_series_labels().position(labels).background_style(WHITE.mix(0.85)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}

fn draw_on(chart: &Chart<'_>, path: &Path, top: f64, logarithmic: Option<f64>) -> Result<(), Box<dyn std::error::Error>> {
    let width = 220 + 110 * u32::try_from(chart.groups.len())?.max(4);
    let root = SVGBackend::new(path, (width, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let colour = |series: usize, part: usize| COLOURS[if chart.parts.len() > 1 { part } else { series } % COLOURS.len()];
    // A logarithm is drawn by drawing logarithms: bars then begin at the bottom of the axis.
    let scale = |value: f64| logarithmic.map_or(value, |bottom| (value / bottom).max(1.0).log10());
    let groups = chart.groups.len();
    let mut context = ChartBuilder::on(&root)
        .caption(chart.title, ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..groups as f64, 0.0..scale(top))?;
    context
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(groups + 1)
        .x_label_formatter(&|_| String::new())
        .y_desc(chart.axis)
        .y_label_formatter(&|value| {
            let value = logarithmic.map_or(*value, |bottom| bottom * 10f64.powf(*value));
            if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
        })
        .draw()?;
    let slot = 0.84 / chart.series.len().max(1) as f64;
    for (at, group) in chart.groups.iter().enumerate() {
        for (series, bar) in group.bars.iter().enumerate() {
            let left = at as f64 + 0.08 + slot * series as f64;
            let mut bottom = 0.0;
            for (part, value) in bar.iter().enumerate() {
                let (low, high) = (scale_from(bottom, &scale), scale_from(bottom + value, &scale));
                context.draw_series([Rectangle::new([(left, low), (left + slot * 0.9, high)], colour(series, part).filled())])?;
                bottom += value;
            }
        }
        let place = context.backend_coord(&(at as f64 + 0.5, 0.0));
        let style = TextStyle::from(("sans-serif", 12).into_font()).pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        root.draw(&Text::new(group.label.clone(), (place.0, place.1 + 6), style))?;
    }
    let names = if chart.parts.len() > 1 { chart.parts } else { chart.series };
    for (at, name) in names.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        // An empty series: only its legend.
        context
            .draw_series(std::iter::empty::<Rectangle<(f64, f64)>>())?
            .label(*name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour.filled()));
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .draw()?;
    if chart.parts.len() > 1 {
        let order = chart.series.iter().enumerate().map(|(at, name)| format!("{}: {name}", at + 1)).collect::<Vec<_>>().join("   ");
        root.draw(&Text::new(format!("bars of a group, from the left  {order}"), (80, 458), ("sans-serif", 12)))?;
    }
    root.present()?;
    Ok(())
}

fn scale_from(value: f64, scale: &impl Fn(f64) -> f64) -> f64 {
    if value <= 0.0 { 0.0 } else { scale(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_chart_are_drawn() {
        let directory = tempfile::tempdir().unwrap();
        let groups = [
            Group { label: "a".into(), bars: vec![vec![1.0, 2.0], vec![3.0, 0.5]] },
            Group { label: "b".into(), bars: vec![vec![], vec![1.0, 1.0]] },
        ];
        let piled = Chart { title: "t", axis: "ms", series: &["x", "y"], parts: &["p", "q"], groups: &groups };
        draw(&piled, &directory.path().join("piled.svg")).unwrap();
        let flat = [Group { label: "a".into(), bars: vec![vec![1.0], vec![1000.0]] }];
        let chart = Chart { title: "t", axis: "1/s", series: &["x", "y"], parts: &[], groups: &flat };
        draw(&chart, &directory.path().join("flat.svg")).unwrap();
        let line = Line { name: "l", points: vec![(0.0, 1.0), (1.0, 2.0)] };
        lines("t", ("s", "MiB"), &[line], &directory.path().join("lines.svg")).unwrap();
        for name in ["piled.svg", "flat.svg", "lines.svg"] {
            assert!(std::fs::read_to_string(directory.path().join(name)).unwrap().contains("<rect"));
        }
    }
}
