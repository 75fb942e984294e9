use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

/// Lines in columns, as kubectl prints them: three blanks between two columns, and none at the end.
pub struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these heads, in capitals.
    pub fn new(head: &[&'static str]) -> Table {
        Table { head: head.to_vec(), rows: Vec::new() }
    }

    /// One more line, of as many cells as there are heads. An empty cell is shown as `-`.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let filled = |cell: String| if cell.is_empty() { "-".to_owned() } else { cell };
        self.rows.push(cells.into_iter().map(filled).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
            cells.chain([self.head[column].len()]).max().unwrap_or_default()
        };
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for (cell, width) in cells.zip(&widths) {
                text.push_str(&format!("{cell:<width$}   "));
            }
            writeln!(f, "{}", text.trim_end())
        };
        line(&mut self.head.iter().copied())?;
        self.rows.iter().try_for_each(|row| line(&mut row.iter().map(String::as_str)))
    }
}

/// How long ago something was, as kubectl says it: `45s`, `12m`, `3h`, `8d`.
pub fn age(then: Option<&Time>, now: Timestamp) -> String {
    let Some(then) = then else { return String::new() };
    let seconds = now.as_second().saturating_sub(then.0.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A number of bytes with two or three digits and a unit: `812 B`, `1.4 MiB`, `37 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value < 10.0 { format!("{value:.1} {}", units[unit]) } else { format!("{value:.0} {}", units[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(&["NAME", "READY", "AGE"]);
        table.row(["a".into(), "True".into(), String::new()]);
        table.row(["a-long-name".into(), "False".into(), "3d".into()]);
        let expected = "NAME          READY   AGE\na             True    -\na-long-name   False   3d\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn ages_and_sizes_are_short() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Some(&Time(Timestamp::from_second(1_000_000 - seconds).unwrap())), now);
        let ages = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(ago);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        assert_eq!((ago(-5), age(None, now)), ("0s".to_owned(), String::new()));
        let sizes = [0, 1023, 1024, 1_500_000, 50 << 20, 1000 << 20, 100 << 30, 9 << 50].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.0 KiB", "1.4 MiB", "50 MiB", "1.0 GiB", "100 GiB", "9216 TiB"]);
    }
}
