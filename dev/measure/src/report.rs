//! Figures for people.

/// A table whose rows are printed as they come.
pub(crate) struct Table {
    widths: Vec<usize>,
}

impl Table {
    /// Prints the heads of columns, each with its least width. The first column is left-aligned, the others right.
    pub(crate) fn start(columns: &[(&str, usize)]) -> Self {
        let table = Self { widths: columns.iter().map(|(_, width)| *width).collect() };
        let heads: Vec<String> = columns.iter().map(|(head, _)| (*head).to_owned()).collect();
        table.row(&heads);
        table
    }

    /// Prints a row.
    pub(crate) fn row(&self, cells: &[String]) {
        println!("{}", self.line(cells));
    }

    fn line(&self, cells: &[String]) -> String {
        let cells = self.widths.iter().zip(cells).enumerate();
        let cells = cells.map(|(index, (&width, cell))| match index {
            0 => format!("{cell:<width$}"),
            _ => format!("  {cell:>width$}"),
        });
        cells.collect::<String>().trim_end().to_owned()
    }
}

/// A time in the unit that suits it.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 1e-3 => format!("{:.1} µs", s * 1e6),
        s if s < 1.0 => format!("{:.2} ms", s * 1e3),
        s => format!("{s:.2} s"),
    }
}

/// A rate in thousands of millions.
pub(crate) fn giga(rate: f64) -> String {
    format!("{:.1}", rate / 1e9)
}

/// A part of a whole in percent; nothing of nothing.
pub(crate) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.0} %", 100.0 * part / whole) } else { String::new() }
}

/// Bytes in millions.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_take_the_unit_that_suits_them() {
        assert_eq!(seconds(0.000_012_34), "12.3 µs");
        assert_eq!(seconds(0.012_34), "12.34 ms");
        assert_eq!(seconds(12.34), "12.34 s");
        assert_eq!(giga(12.34e9), "12.3");
        assert_eq!(percent(1.0, 3.0), "33 %");
        assert_eq!(percent(1.0, 0.0), "");
    }

    #[test]
    fn the_first_column_is_left_aligned() {
        let table = Table { widths: vec![4, 5] };
        assert_eq!(table.line(&["a".to_owned(), "1.0".to_owned()]), "a       1.0");
    }
}
