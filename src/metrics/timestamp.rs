use std::{
    fmt,
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A point in time to the microsecond, written as `2026-11-27T15:28:24.123456Z` (RFC 3339, in UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Microseconds since the beginning of 1970 in UTC.
    pub microseconds: u64,
}

const SECOND: u64 = 1_000_000;
const DAY: u64 = 86_400 * SECOND;

impl Timestamp {
    /// The current time of the system's clock. 1970 if the clock is set before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { microseconds: u64::try_from(since.as_micros()).unwrap_or(u64::MAX) }
    }
}

/// The year, month and day of a day number counted from 1970-01-01, in the Gregorian calendar.
fn date(day: u64) -> (u64, u64, u64) {
    // Years begin in March here, so that the leap day is the last day of a year. An era has 400 years.
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let calendar_month = if month < 10 { month + 3 } else { month - 9 };
    (400 * era + year + u64::from(calendar_month <= 2), calendar_month, of_month)
}

/// The day number counted from 1970-01-01. `None` before that day.
fn day(year: u64, month: u64, of_month: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + of_month - 1;
    (era * 146_097 + 365 * of_era + of_era / 4 - of_era / 100 + of_year).checked_sub(719_468)
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, of_month) = date(self.microseconds / DAY);
        let (seconds, micros) = (self.microseconds % DAY / SECOND, self.microseconds % SECOND);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a time must look like `2026-11-27T15:28:24.123456Z`";
        let form = b"dddd-dd-ddTdd:dd:dd.ddddddZ";
        let bytes = text.as_bytes();
        let fits = |(at, wanted): (&u8, &u8)| if *wanted == b'd' { at.is_ascii_digit() } else { at == wanted };
        if bytes.len() != form.len() || !bytes.iter().zip(form).all(fits) {
            return Err(FORM);
        }
        let number = |from: usize, to: usize| text[from..to].parse::<u64>().map_err(|_| FORM);
        let (year, month, of_month) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second, micros) = (number(11, 13)?, number(14, 16)?, number(17, 19)?, number(20, 26)?);
        let day = match (1..=12).contains(&month) && of_month >= 1 {
            true => day(year, month, of_month).filter(|day| date(*day) == (year, month, of_month)).ok_or(FORM)?,
            false => return Err(FORM),
        };
        match hour < 24 && minute < 60 && second < 60 {
            true => Ok(Self { microseconds: day * DAY + ((hour * 60 + minute) * 60 + second) * SECOND + micros }),
            false => Err(FORM),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_times_are_written_and_read() {
        // From `date --utc --date=@... --iso-8601=seconds`.
        let known = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00.000000Z"),
            (951_868_800 * SECOND + 1, "2000-03-01T00:00:00.000001Z"),
            (1_709_251_199 * SECOND + 999_999, "2024-02-29T23:59:59.999999Z"),
            (4_107_542_400 * SECOND, "2100-03-01T00:00:00.000000Z"),
        ];
        for (microseconds, text) in known {
            let timestamp = Timestamp { microseconds };
            assert_eq!(timestamp.to_string(), text);
            assert_eq!(text.parse(), Ok(timestamp));
        }
    }

    #[test]
    fn every_day_of_four_centuries_comes_back() {
        for day in 0..146_097 {
            let (year, month, of_month) = date(day);
            assert_eq!(super::day(year, month, of_month), Some(day));
        }
    }

    #[test]
    fn days_that_are_none_are_refused() {
        let text = |date: &str| format!("{date}T00:00:00.000000Z");
        for date in ["2023-02-29", "2026-13-01", "2026-00-10", "2026-04-31", "1969-12-31", "2026-01-00", "26-01-01"] {
            assert!(text(date).parse::<Timestamp>().is_err(), "{date}");
        }
        for time in ["24:00:00.000000Z", "00:60:00.000000Z", "00:00:00.000000", "00:00:00Z", "00:00:00,000000Z"] {
            assert!(format!("2026-01-01T{time}").parse::<Timestamp>().is_err(), "{time}");
        }
    }
}
