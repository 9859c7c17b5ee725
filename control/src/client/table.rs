//! Tables as kubectl writes them: columns of plain words.

/// Rows under their titles, each column as wide as its widest word, the last one as it is.
pub fn write(titles: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(titles.get(column).map(|title| title.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}   "));
        padded.collect::<String>().trim_end().to_string()
    };
    let head = line(titles.to_vec());
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

/// A time as people say it: `45s`, `12m`, `3h`, `4d`.
pub fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A time as people say it: `850us`, `1.2ms`, `3.40s`.
pub fn time(seconds: f64) -> String {
    match seconds {
        ..0.001 => format!("{:.0}us", seconds * 1e6),
        0.001..1.0 => format!("{:.1}ms", seconds * 1e3),
        _ => format!("{seconds:.2}s"),
    }
}

/// Bytes as people say them: `312B`, `1.2KiB`.
pub fn size(bytes: f64) -> String {
    if bytes < 1024.0 {
        return format!("{bytes:.0}B");
    }
    let (mut size, mut unit) = (bytes / 1024.0, 0);
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        (size, unit) = (size / 1024.0, unit + 1);
    }
    format!("{size:.1}{}", UNITS[unit])
}

const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_word() {
        let rows = [vec!["a".to_string(), "1".to_string()], vec!["reviews".to_string(), String::new()]];
        assert_eq!(write(&["NAME", "AGE"], &rows), "NAME      AGE\na         1\nreviews");
        assert_eq!(
            ["119s", "2m", "119m", "2h", "47h", "2d"],
            [119, 120, 7_199, 7_200, 172_799, 172_800].map(age)[..]
        );
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.0, 1023.0, 1024.0, 1.5e6, 1e18].map(size),
            ["0B", "1023B", "1.0KiB", "1.4MiB", "909494.7TiB"]
        );
        assert_eq!(
            [0.0, 0.00001, 0.001, 0.0456, 1.0, 60.0].map(time),
            ["0us", "10us", "1.0ms", "45.6ms", "1.00s", "60.00s"]
        );
    }
}
