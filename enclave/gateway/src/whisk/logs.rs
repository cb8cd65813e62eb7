//! Lines of a log, as OpenWhisk formats them.

use super::clock::timestamp;

/// What `entry.js` puts before what goes to stderr.
const MARK: char = '\u{1e}';

/// Lines of what a function wrote until `end_ms`. JavaScript writes to both streams; a module's result is its stdout, so its log is stderr.
pub fn lines(text: &str, javascript: bool, end_ms: u64, limit: usize) -> Vec<String> {
    // The enclave keeps what a function writes as one piece: when a line was written is not kept, only when the function ended.
    let time = timestamp(end_ms);
    let mut lines = Vec::new();
    let mut left = limit;
    for line in text.lines() {
        let stderr = !javascript || line.trim_start_matches(' ').starts_with(MARK);
        let line = if line.contains(MARK) { line.replace(MARK, "") } else { line.to_owned() };
        let stream = if stderr { "stderr" } else { "stdout" };
        if line.len() > left {
            let cut = line.floor_char_boundary(left);
            if cut > 0 {
                lines.push(format!("{time} {stream}: {}", &line[..cut]));
            }
            lines.push(truncated(&time, limit));
            break;
        }
        left -= line.len();
        lines.push(format!("{time} {stream}: {line}"));
    }
    lines
}

fn truncated(time: &str, limit: usize) -> String {
    format!("{time} stderr: Logs were truncated because the total bytes size exceeds the limit of {limit} bytes.")
}

/// Notes that the engine already cut what a function wrote.
pub fn note_truncated(lines: &mut Vec<String>, end_ms: u64, limit: usize) {
    let line = truncated(&timestamp(end_ms), limit);
    if lines.last() != Some(&line) {
        lines.push(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_told_apart() {
        assert_eq!(
            lines("a\n\u{1e}b\n  \u{1e}c\n\nd \u{1e}e", true, 0, 1000),
            [
                "1970-01-01T00:00:00.000000000Z stdout: a",
                "1970-01-01T00:00:00.000000000Z stderr: b",
                "1970-01-01T00:00:00.000000000Z stderr:   c",
                "1970-01-01T00:00:00.000000000Z stdout: ",
                "1970-01-01T00:00:00.000000000Z stdout: d e",
            ]
        );
        assert_eq!(lines("a", false, 0, 1000), ["1970-01-01T00:00:00.000000000Z stderr: a"]);
        assert!(lines("", true, 0, 0).is_empty());
    }

    #[test]
    fn too_much_is_cut_and_said() {
        let said = "1970-01-01T00:00:00.000000000Z stderr: Logs were truncated because the total bytes size exceeds the limit of 4 bytes.";
        assert_eq!(
            lines("ab\ncdä\ne", true, 0, 4),
            ["1970-01-01T00:00:00.000000000Z stdout: ab", "1970-01-01T00:00:00.000000000Z stdout: cd", said]
        );
        let mut cut = lines("abcdef", true, 0, 4);
        note_truncated(&mut cut, 0, 4);
        assert_eq!(cut.iter().filter(|line| *line == said).count(), 1);
    }
}
