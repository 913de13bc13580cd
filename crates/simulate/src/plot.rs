//! Policies side by side, as a picture: which part of the requests had its first token, and its tokens, within a time.

use std::fmt::{self, Write};

use crate::run::{Measured, Served};

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 40.0;
const POINTS: usize = 200;
const COLOURS: [&str; 8] =
    ["#808080", "#4a7fc1", "#d07030", "#58a55c", "#8e6bbf", "#c04060", "#40a0a0", "#a08020"];

/// Draws the runs, each with its name, as an SVG document.
pub fn plot(title: &str, runs: &[(String, &Measured)]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _infallible = draw(&mut out, title, runs);
    out
}

fn draw(out: &mut String, title: &str, runs: &[(String, &Measured)]) -> fmt::Result {
    let width = 2.0 * (WIDTH + LEFT + 40.0);
    let height = HEIGHT + TOP + 60.0 + 16.0 * runs.len() as f64;
    writeln!(
        out,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="12">"#
    )?;
    writeln!(out, r##"<rect width="100%" height="100%" fill="#ffffff"/>"##)?;
    label(out, LEFT, 16.0, title)?;
    type Time = fn(&Served) -> Option<f64>;
    let panels: [(&str, Time); 2] = [
        ("time to first token, ms", Served::first_token_s),
        ("time between tokens, ms", Served::token_s),
    ];
    for (panel, (name, time)) in panels.into_iter().enumerate() {
        let left = LEFT + panel as f64 * (WIDTH + LEFT + 40.0);
        let times = |measured: &Measured| {
            let mut times: Vec<f64> =
                measured.served.iter().filter_map(time).map(|time_s| time_s * 1e3).collect();
            times.sort_by(f64::total_cmp);
            times
        };
        let curves: Vec<Vec<f64>> = runs.iter().map(|(_, measured)| times(measured)).collect();
        curves_of(out, left, name, &curves)?;
    }
    for (index, (name, _)) in runs.iter().enumerate() {
        let (y, colour) =
            (TOP + HEIGHT + 50.0 + 16.0 * index as f64, COLOURS[index % COLOURS.len()]);
        writeln!(
            out,
            r#"<rect x="{LEFT}" y="{:.0}" width="20" height="4" fill="{colour}"/>"#,
            y - 6.0
        )?;
        label(out, LEFT + 28.0, y, name)?;
    }
    writeln!(out, "</svg>")
}

/// Cumulated parts over a logarithmic axis.
fn curves_of(out: &mut String, left: f64, name: &str, curves: &[Vec<f64>]) -> fmt::Result {
    let all = || curves.iter().flatten().copied();
    let low = all().fold(f64::INFINITY, f64::min).clamp(0.01, 1e6).log10().floor();
    let high = all().fold(0.0, f64::max).clamp(0.1, 1e9).log10().ceil().max(low + 1.0);
    let x = |ms: f64| left + (ms.max(1e-9).log10() - low) / (high - low) * WIDTH;
    let y = |part: f64| TOP + (1.0 - part) * HEIGHT;
    for decade in low as i32..=high as i32 {
        let ms = 10_f64.powi(decade);
        let at = x(ms);
        writeln!(
            out,
            r##"<line x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.0}" stroke="#d8d8d8"/>"##,
            TOP + HEIGHT
        )?;
        label(out, at - 8.0, TOP + HEIGHT + 16.0, &format!("{ms}"))?;
    }
    for part in [0.0, 0.5, 0.9, 0.99, 1.0] {
        let at = y(part);
        writeln!(
            out,
            r##"<line x1="{left}" x2="{:.0}" y1="{at:.1}" y2="{at:.1}" stroke="#e8e8e8"/>"##,
            left + WIDTH
        )?;
        if part != 0.99 {
            label(out, left - 34.0, at + 4.0, &format!("{:.0} %", 100.0 * part))?;
        }
    }
    label(out, left + WIDTH / 2.0 - 60.0, TOP + HEIGHT + 34.0, name)?;
    for (index, curve) in curves.iter().enumerate().filter(|(_, curve)| !curve.is_empty()) {
        write!(
            out,
            r#"<polyline fill="none" stroke="{}" stroke-width="1.6" points=""#,
            COLOURS[index % COLOURS.len()]
        )?;
        for point in 0..=POINTS {
            let part = point as f64 / POINTS as f64;
            let place = ((curve.len() - 1) as f64 * part) as usize;
            write!(out, "{:.1},{:.1} ", x(curve[place]), y(part))?;
        }
        writeln!(out, r#""/>"#)?;
    }
    Ok(())
}

fn label(out: &mut String, x: f64, y: f64, text: &str) -> fmt::Result {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(out, r##"<text x="{x:.1}" y="{y:.1}" fill="#303030">{text}</text>"##)
}
