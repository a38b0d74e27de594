use super::*;
use crate::document::decode::At;

/// Reads a lone value.
fn read<T: Decode>(json: &str) -> Result<T, String> {
    let mut reader = Reader::new(json).map_err(|e| e.to_string())?;
    let value = T::decode(&mut reader, 0);
    let errors = reader.into_errors();
    match (value, errors.first()) {
        (Some(value), None) => Ok(value),
        (None, Some(error)) => Err(error.problem.to_string()),
        (value, error) => panic!("{} and {error:?}", value.is_some()),
    }
}

type Any = Size<1, { 1 << 50 }>;

#[test]
fn sizes_have_binary_units() {
    for (json, bytes) in [
        ("\"64MiB\"", 64 << 20),
        ("\"1GiB\"", 1 << 30),
        ("\"3TiB\"", 3 << 40),
        ("\"4KiB\"", 4096),
        ("\"17B\"", 17),
        ("65536", 65536),
    ] {
        assert_eq!(read::<Any>(json).map(|size| size.0), Ok(bytes), "{json}");
    }
}

#[test]
fn sizes_that_could_mean_two_things_are_refused() {
    for (json, message) in [
        (
            "\"64MB\"",
            "\"64MB\" is no size: write \"64MiB\" (powers of 1024), or the number of bytes",
        ),
        ("\"1gb\"", "\"1gb\" is no size: write \"1GiB\" (powers of 1024), or the number of bytes"),
        ("\"64 MiB\"", "\"64 MiB\" is no size: write \"64MiB\""),
        ("\"64mib\"", "\"64mib\" is no size: write \"64MiB\""),
        ("\"64M\"", "\"64M\" is no size: write \"64MiB\""),
        ("\"1.5GiB\"", "\"1.5GiB\" is no size: write \"1536MiB\""),
        (
            "\"65536\"",
            "\"65536\" is no size: write it with a unit (B, KiB, MiB, GiB, TiB), or without the \
             quotes",
        ),
        ("\"\"", "\"\" is no size: write a number and a unit, such as \"64MiB\""),
        ("\"MiB\"", "\"MiB\" is no size: write a number and a unit, such as \"64MiB\""),
        ("\"-1MiB\"", "\"-1MiB\" is no size: write a number and a unit, such as \"64MiB\""),
        ("1.5", "found the number 1.5 where a size belongs: write \"64MiB\""),
        ("-1", "found the number -1 where a size belongs: write \"64MiB\""),
        ("1e6", "found the number 1e6 where a size belongs: write \"64MiB\""),
        ("true", "found true where a size belongs: write \"64MiB\""),
        ("0", "\"0B\" is too small: write \"1B\" or more, at most \"1024TiB\""),
        ("\"1025TiB\"", "\"1025TiB\" is too large: write \"1024TiB\" or less, at least \"1B\""),
        (
            "\"99999999999TiB\"",
            "\"99999999999TiB\" is too large: write \"1024TiB\" or less, at least \"1B\"",
        ),
        (
            "99999999999999999999",
            "the number 99999999999999999999 is too large: write \"1024TiB\" or less, at least \"1B\"",
        ),
    ] {
        assert_eq!(read::<Any>(json).unwrap_err(), message, "{json}");
    }
}

#[test]
fn durations_need_a_unit() {
    type Time = Span<1, 3_600_000_000_000>;
    for (json, ns) in [
        ("\"2s\"", 2_000_000_000),
        ("\"500ms\"", 500_000_000),
        ("\"10us\"", 10_000),
        ("\"7ns\"", 7),
        ("\"3min\"", 180_000_000_000),
        ("\"1h\"", 3_600_000_000_000),
    ] {
        assert_eq!(read::<Time>(json).map(|span| span.0), Ok(ns), "{json}");
    }
    for (json, message) in [
        (
            "2",
            "the number 2 is no duration: write it in quotes with a unit (ns, us, ms, s, min, h)",
        ),
        ("\"2\"", "\"2\" is no duration: write a number and a unit, such as \"2s\" or \"500ms\""),
        ("\"1.5s\"", "\"1.5s\" is no duration: write \"1500ms\""),
        ("\"2 sec\"", "\"2 sec\" is no duration: write \"2s\""),
        ("\"10µs\"", "\"10µs\" is no duration: write \"10us\""),
        ("\"5m\"", "\"5m\" is no duration: write \"5min\""),
        ("\"0s\"", "\"0s\" is too small: write \"1ns\" or more, at most \"1h\""),
        ("\"2h\"", "\"2h\" is too large: write \"1h\" or less, at least \"1ns\""),
        ("[]", "found a list where a duration belongs: write \"2s\""),
    ] {
        assert_eq!(read::<Time>(json).unwrap_err(), message, "{json}");
    }
}

#[test]
fn counts_are_digits() {
    type Few = Count<1, 64>;
    assert_eq!(read::<Few>("64").map(|count| count.0), Ok(64));
    for (json, message) in [
        ("0", "0 is too small: write 1 or more, at most 64"),
        ("65", "65 is too large: write 64 or less, at least 1"),
        ("1e1", "1e1 is no whole number: write digits alone, 1 to 64"),
        ("2.0", "2.0 is no whole number: write digits alone, 1 to 64"),
        ("-3", "-3 is no whole number: write digits alone, 1 to 64"),
        ("\"8\"", "found \"8\" where a whole number belongs: write 8"),
        ("null", "found null where a whole number belongs: write 8"),
        ("99999999999999999999", "99999999999999999999 is too large: write 64 or less, at least 1"),
    ] {
        assert_eq!(read::<Few>(json).unwrap_err(), message, "{json}");
    }
}

#[test]
fn amounts_are_written_as_they_are_read() {
    for bytes in [1, 1023, 1024, 1 << 20, (1 << 30) + 1, 5 << 40, 1 << 50] {
        assert_eq!(read::<Any>(&format!("{:?}", size(bytes))).map(|s| s.0), Ok(bytes));
    }
    assert_eq!((size(0), span(0)), ("0B".into(), "0s".into()));
}

#[test]
fn lists_keep_what_can_be_read() {
    let mut reader = Reader::new("[1, \"x\", 3, 99]").unwrap_or_else(|e| panic!("{e}"));
    let list = <Vec<At<Count<1, 64>>>>::decode(&mut reader, 0).unwrap_or_default();
    assert_eq!(list.iter().map(|item| item.0).collect::<Vec<_>>(), [1, 3]);
    let errors: Vec<_> =
        reader.into_errors().into_iter().map(|e| (e.line, e.column, e.path)).collect();
    assert_eq!(errors, [(1, 5, "$[1]".into()), (1, 13, "$[3]".into())]);
}
