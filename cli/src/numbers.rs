//! What numeric options may be: parsers that say what is wrong with a value, for flags and for
//! files alike.

use std::str::FromStr;

use clap::builder::TypedValueParser;

/// A parser for clap.
type Parsed<T> = Result<T, String>;

/// A whole number from `least` up.
pub(crate) fn whole<T>(least: u64) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    move |text: &str| -> Parsed<T> {
        let value = text.parse().ok().filter(|value: &u64| *value >= least);
        let value = value.ok_or_else(|| format!("must be a whole number from {least} up"))?;
        T::try_from(value).map_err(|_| "is too large".to_string())
    }
}

/// The numbers that an option takes; NaN and infinity are never among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// Above 0.
    Positive,
    /// From 0 up.
    NotNegative,
    /// From 0 to below 1.
    BelowOne,
    /// From 0 to 1.
    Share,
    /// Between 0 and 1.
    Part,
    /// Above 0, up to 100.
    Percent,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Positive => value > 0.0,
                Self::NotNegative => value >= 0.0,
                Self::BelowOne => (0.0..1.0).contains(&value),
                Self::Share => (0.0..=1.0).contains(&value),
                Self::Part => value > 0.0 && value < 1.0,
                Self::Percent => value > 0.0 && value <= 100.0,
            }
    }

    /// What is wrong with a value that is not in it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Positive => "must be a number above 0",
            Self::NotNegative => "must be a number from 0 up",
            Self::BelowOne => "must be a number from 0 to below 1",
            Self::Share => "must be a number from 0 to 1",
            Self::Part => "must be a number between 0 and 1",
            Self::Percent => "must be a number above 0, up to 100",
        }
    }

    /// Checks a value that a file may have set.
    ///
    /// # Errors
    /// [`Error::Config`](incept::Error::Config) naming the option.
    pub(crate) fn check(self, value: Option<impl Into<f64>>, option: &str) -> incept::Result<()> {
        match value.map(Into::into) {
            Some(value) if !self.holds(value) => {
                let reason = self.reason();
                Err(incept::Error::Config(format!("--{option} {reason}, not {value}")))
            }
            _ => Ok(()),
        }
    }
}

/// A number of `range`.
pub(crate) fn real<T>(range: Range) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Into<f64> + Copy + Send + Sync + 'static,
{
    move |text: &str| -> Parsed<T> {
        let value: Option<T> = text.parse().ok().filter(|value: &T| range.holds((*value).into()));
        value.ok_or_else(|| range.reason().to_string())
    }
}

/// Checks a count that a file may have set.
///
/// # Errors
/// [`Error::Config`](incept::Error::Config) naming the option.
pub(crate) fn not_zero(value: Option<u64>, option: &str) -> incept::Result<()> {
    match value {
        Some(0) => Err(incept::Error::Config(format!("--{option} must be a whole number from 1 up, not 0"))),
        _ => Ok(()),
    }
}
