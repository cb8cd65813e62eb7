//! Seconds since 1970 as dates, in UTC.

/// A date and a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year.
    pub year: u64,
    /// 1 ..= 12.
    pub month: u64,
    /// 1 ..= 31.
    pub day: u64,
    /// 0 ..= 23.
    pub hour: u64,
    /// 0 ..= 59.
    pub minute: u64,
    /// 0 ..= 59.
    pub second: u64,
}

impl Civil {
    /// From seconds since 1970 (the civil calendar, counted in eras of 400 years from a March). Years beyond 9999 become 9999.
    pub fn from_unix(seconds: u64) -> Self {
        let seconds = seconds.min(253_402_300_799);
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        Civil {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted + 2) / 5 + 1,
            hour: seconds / 3600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

/// Seconds since 1970 of a time as `2026-11-20T09:30:00Z`. `None` for any other form, and for days that the calendar does not have.
pub fn parse(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| {
        let digits = text.get(range)?;
        digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse::<u64>().ok())?
    };
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days from 1970-03-01 on, with March as the first month, so that the leap day is the last of its year.
    let shifted = if month > 2 { month.checked_sub(3)? } else { month + 9 };
    let march_year = year.checked_sub(u64::from(month <= 2))?;
    let (era, year_of_era) = (march_year / 400, march_year % 400);
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * shifted + 2) / 5 + day.checked_sub(1)?;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second;
    // Whatever is no date, or is written in another way, does not come out as it went in.
    (Civil::from_unix(seconds).to_string() == text).then_some(seconds)
}

impl std::fmt::Display for Civil {
    /// As RFC 3339 writes it: `2026-11-20T09:30:00Z`.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Civil { year, month, day, hour, minute, second } = self;
        write!(formatter, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_what_the_calendar_says() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_750_330_571, "2025-06-19T10:56:11Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(Civil::from_unix(seconds).to_string(), text);
            assert_eq!(parse(text), (seconds <= 253_402_300_799).then_some(seconds).or(Some(253_402_300_799)));
        }
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        let wrong =
            ["", "2025-02-29T00:00:00Z", "2025-01-01T24:00:00Z", "2025-01-01T00:00:60Z", "2025-13-01T00:00:00Z", "2025-00-01T00:00:00Z"];
        for text in wrong.into_iter().chain([
            "2025-01-00T00:00:00Z",
            "2025-01-01T00:00:00+00:00",
            "1969-12-31T23:59:59Z",
            "2025-01-01 00:00:00Z",
            "é025-01-01T00:00:00Z",
        ]) {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn each_second_is_read_back(seconds in 0u64..253_402_300_800) {
            proptest::prop_assert_eq!(parse(&Civil::from_unix(seconds).to_string()), Some(seconds));
        }
    }
}
