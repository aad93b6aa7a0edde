use super::*;
use nix::pty::openpty;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

/// Who sits in front of a terminal: types, and reads until something is there.
pub(crate) struct Person {
    side: File,
    read: String,
    bytes: Vec<u8>,
}

impl Person {
    /// A person, and the terminal in front of them.
    pub(crate) fn new() -> (Person, Terminal) {
        let (person, terminal) = UnixStream::pair().unwrap();
        terminal.set_nonblocking(true).unwrap();
        let file = |stream: UnixStream| File::from(std::os::fd::OwnedFd::from(stream));
        (Person { side: file(person), read: String::new(), bytes: Vec::new() }, Terminal::of(file(terminal)))
    }

    pub(crate) fn types(&mut self, text: &str) {
        self.side.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` is there, and returns all up to its end; what comes behind it is read by the next.
    pub(crate) fn sees(&mut self, text: &str) -> String {
        let until = now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.read.find(text) {
                let seen = self.read[..at + text.len()].to_owned();
                self.read.drain(..at + text.len());
                return seen;
            }
            assert!(await_it(&self.side, PollFlags::POLLIN, until).unwrap(), "never saw {text:?} but {:?}", self.read);
            let mut some = [0; 4096];
            let read = self.side.read(&mut some).unwrap();
            assert!(read > 0, "the terminal went away; never saw {text:?} but {:?}", self.read);
            self.bytes.extend_from_slice(&some[..read]);
            let whole = match std::str::from_utf8(&self.bytes) {
                Ok(text) => text.len(),
                Err(error) => error.valid_up_to(),
            };
            let text: Vec<u8> = self.bytes.drain(..whole).collect();
            self.read += &String::from_utf8(text).unwrap();
        }
    }

    /// All that was written, once the terminal is gone.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = self.bytes;
        self.side.read_to_end(&mut rest).unwrap();
        self.read + &String::from_utf8(rest).unwrap()
    }
}

fn keys(bytes: &[u8]) -> Vec<Key> {
    let (mut person, mut terminal) = Person::new();
    person.side.write_all(bytes).unwrap();
    let mut keys = Vec::new();
    while let Some(key) = terminal.key(now()).unwrap() {
        keys.push(key);
    }
    keys
}

fn line(typed: &str, echo: Echo, most: usize) -> (String, String) {
    let (mut person, mut terminal) = Person::new();
    person.types(typed);
    let line = terminal.line(echo, most).unwrap().to_string();
    drop(terminal);
    (line, person.rest())
}

#[test]
fn an_enter_is_one_whatever_the_terminal_sends() {
    for typed in ["\r", "\n", "\r\n"] {
        assert_eq!(keys(typed.as_bytes()), [Key::Enter], "{typed:?}");
    }
    assert_eq!(keys(b"\r\r\n\n"), [Key::Enter, Key::Enter, Key::Enter]);
}

#[test]
fn arrows_are_swallowed_and_escape_alone_is_a_way_back() {
    assert_eq!(keys(b"a\x1b[A\x1b[1;5Cb\x1bOP"), [Key::Char('a'), Key::Char('b')]);
    assert_eq!(keys(b"\x1b"), [Key::Cancel]);
    assert_eq!(keys(b"\x03\x04"), [Key::Cancel, Key::Cancel]);
}

#[test]
fn characters_of_utf8_are_whole_and_garbage_is_none() {
    assert_eq!(keys("中é".as_bytes()), [Key::Char('中'), Key::Char('é')]);
    assert_eq!(keys(b"\xff\xc3(\xe4\xb8x\x00\x01"), [Key::Char('('), Key::Char('x')]);
}

#[test]
fn what_is_typed_is_echoed_and_can_be_taken_back() {
    assert_eq!(line("ab\x7fc\r", Echo::Plain, 80), ("ac".into(), "ab\x08 \x08c\n".into()));
    assert_eq!(line("abc\x15d\r", Echo::Plain, 80).0, "d");
    assert_eq!(line("\x7f\x7fa\r", Echo::Plain, 80), ("a".into(), "a\n".into()));
    assert_eq!(line("中\x7fa\r", Echo::Plain, 80).1, "中\x08 \x08\x08 \x08a\n");
}

#[test]
fn of_a_secret_that_is_typed_not_even_the_length_is_shown() {
    assert_eq!(line("ab\x7fc\r", Echo::Nothing, 80), ("ac".into(), "\n".into()));
    assert_eq!(line("abc\x15d\r", Echo::Nothing, 80), ("d".into(), "\n".into()));
}

#[test]
fn a_line_that_is_too_long_rings_and_keeps_its_beginning() {
    assert_eq!(line("abcde\r", Echo::Plain, 3), ("abc".into(), "abc\x07\x07\n".into()));
}

#[test]
fn a_pasted_secret_is_whole_over_line_breaks_and_not_shown() {
    let (secret, shown) = line("sluice1.SECRETPART\r\nSECONDPART\r\nTHIRDPART\r\n", Echo::Secret, 1000);
    assert_eq!(secret, "sluice1.SECRETPARTSECONDPARTTHIRDPART");
    assert_eq!(shown, format!("sluice1.{}\n", "*".repeat("SECRETPARTSECONDPARTTHIRDPART".len())));
}

#[test]
fn a_secret_of_sixteen_thousand_characters_comes_whole() {
    let secret: String = (0..16_000).map(|at| char::from(b'a' + (at % 26) as u8)).collect();
    let (mut person, mut terminal) = Person::new();
    let (sent, typed) = (secret.clone(), mpsc::channel());
    let reader = std::thread::spawn(move || {
        person.types(&sent);
        person.types("\r");
        typed.0.send(person.sees("*\n")).unwrap();
    });
    assert_eq!(*terminal.line(Echo::Secret, 16_000).unwrap(), secret);
    reader.join().unwrap();
    assert_eq!(typed.1.recv().unwrap().len(), 16_001);
}

#[test]
fn a_question_is_asked_until_the_answer_makes_sense() {
    let (mut person, mut terminal) = Person::new();
    person.types("x\r5\r");
    let check = |typed: &str| typed.parse::<u32>().map_err(|_| format!("\"{typed}\" is no number."));
    assert_eq!(terminal.ask("How many", None, check).unwrap(), 5);
    person.types("\r");
    assert_eq!(terminal.ask("How many", Some("7"), check).unwrap(), 7);
    drop(terminal);
    assert_eq!(person.rest(), "How many: x\n  \"x\" is no number.\nHow many: 5\nHow many [7]: \n");
}

#[test]
fn a_list_is_chosen_from_by_number_and_zero_is_the_way_back() {
    let (mut person, mut terminal) = Person::new();
    let options = ["one".to_owned(), "two".to_owned()];
    person.types("3\r-1\r2\r0\r");
    assert_eq!(terminal.choose(&options).unwrap(), 1);
    assert!(matches!(terminal.choose(&options), Err(Stop::Cancel)));
    drop(terminal);
    let rest = person.rest();
    assert!(rest.contains("\"3\" is not in the list. Type a number from 0 to 2 and press Enter."), "{rest}");
    assert!(rest.contains("\"-1\" is not in the list"), "{rest}");
}

#[test]
fn a_dangerous_word_counts_only_when_it_is_typed_after_the_question() {
    let (mut person, mut terminal) = Person::new();
    person.types("erase\r"); // before anything was asked
    let person = std::thread::spawn(move || {
        person.sees("does nothing: ");
        person.types("Erase\r");
        person.sees("Nothing was done.");
        person.sees("does nothing: ");
        person.types("erase\r");
        person
    });
    assert!(!terminal.has_typed("erase").unwrap());
    assert!(terminal.has_typed("erase").unwrap());
    drop(person.join().unwrap());
}

#[test]
fn nobody_there_ends_a_question_and_so_does_a_terminal_that_is_gone() {
    let (person, mut terminal) = Person::new();
    terminal.idle = Duration::from_millis(50);
    assert!(matches!(terminal.line(Echo::Plain, 10), Err(Stop::Idle)));
    drop(person);
    assert!(matches!(terminal.line(Echo::Plain, 10), Err(Stop::Gone(_))));
}

#[test]
fn a_real_terminal_gives_keys_one_by_one_without_an_echo_of_the_kernels() {
    let pty = openpty(None, None).unwrap();
    let name = nix::unistd::ttyname(&pty.slave).unwrap();
    let mut terminal = Terminal::open(&name, Language::Chinese).unwrap();
    assert_eq!(terminal.language, Language::Chinese);
    let mut keyboard = File::from(pty.master);
    keyboard.write_all(b"a\x03\r").unwrap();
    let until = now() + Duration::from_secs(60);
    for expected in [Key::Char('a'), Key::Cancel, Key::Enter] {
        assert_eq!(terminal.key(until).unwrap(), Some(expected));
    }
    terminal.say("said").unwrap();
    let mut some = [0; 100];
    let read = keyboard.read(&mut some).unwrap();
    assert_eq!(&some[..read], b"said\r\n");
}

#[test]
fn the_kernels_own_screen_speaks_english_only() {
    assert!(is_kernels_screen(Path::new("/dev/tty1")));
    for path in ["/dev/ttyS0", "/dev/pts/3", "/dev/ttyUSB0"] {
        assert!(!is_kernels_screen(Path::new(path)), "{path}");
    }
}
