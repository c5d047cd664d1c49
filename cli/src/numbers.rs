//! Ranges of numeric options: value parsers for flags, and checks for values from files.

use std::str::FromStr;

use clap::builder::TypedValueParser;

/// The result of a value parser.
type Parsed<T> = Result<T, String>;

/// A parser of integers of at least `least`.
pub(crate) fn whole<T>(least: u64) -> impl TypedValueParser<Value = T>
where
    T: TryFrom<u64> + Clone + Send + Sync + 'static,
{
    move |text: &str| -> Parsed<T> {
        let value = text.parse().ok().filter(|value: &u64| *value >= least);
        let value = value.ok_or_else(|| format!("must be an integer, at least {least}"))?;
        T::try_from(value).map_err(|_| "is too large".to_string())
    }
}

/// The valid range of an option; NaN and infinity are never valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// (0, inf)
    Positive,
    /// [0, inf)
    NotNegative,
    /// [0, 1)
    BelowOne,
    /// [0, 1]
    Unit,
    /// (0, 1)
    OpenUnit,
    /// (0, 100]
    Percent,
}

impl Range {
    fn holds(self, value: f64) -> bool {
        value.is_finite()
            && match self {
                Self::Positive => value > 0.0,
                Self::NotNegative => value >= 0.0,
                Self::BelowOne => (0.0..1.0).contains(&value),
                Self::Unit => (0.0..=1.0).contains(&value),
                Self::OpenUnit => value > 0.0 && value < 1.0,
                Self::Percent => value > 0.0 && value <= 100.0,
            }
    }

    /// The reason for rejecting a value outside of it.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Positive => "must be a number above 0",
            Self::NotNegative => "must be a number, at least 0",
            Self::BelowOne => "must be a number in [0, 1)",
            Self::Unit => "must be a number in [0, 1]",
            Self::OpenUnit => "must be a number in (0, 1)",
            Self::Percent => "must be a number in (0, 100]",
        }
    }

    /// Checks a value that may come from a file.
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

/// A parser of numbers in `range`.
pub(crate) fn real<T>(range: Range) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Into<f64> + Copy + Send + Sync + 'static,
{
    move |text: &str| -> Parsed<T> {
        let value: Option<T> = text.parse().ok().filter(|value: &T| range.holds((*value).into()));
        value.ok_or_else(|| range.reason().to_string())
    }
}

/// Checks a count that may come from a file.
///
/// # Errors
/// [`Error::Config`](incept::Error::Config) naming the option.
pub(crate) fn not_zero(value: Option<u64>, option: &str) -> incept::Result<()> {
    match value {
        Some(0) => Err(incept::Error::Config(format!("--{option} must be an integer, at least 1, not 0"))),
        _ => Ok(()),
    }
}
