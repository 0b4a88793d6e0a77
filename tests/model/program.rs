//! A random program as it is generated, shrunk, printed and handed to the child: plain values, each of
//! which has a meaning whatever the others are, so that shrinking one never makes the rest invalid.
//! `plan.rs` gives it its exact meaning.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// What a pair of descriptors leads to. Every object has two ends, 0 and 1: two open file descriptions of
/// one file, the reading and the writing end of a pipe, or the two sockets of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A regular file through the page cache.
    Buffered,
    /// A regular file with O_DIRECT.
    Direct,
    /// A regular file with O_APPEND.
    Append,
    Pipe,
    /// A pair of UNIX stream sockets.
    Stream,
    /// A pair of UNIX SOCK_SEQPACKET sockets.
    Packets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Read,
    Write,
    /// aio_fsync(O_SYNC)
    Sync,
    /// aio_fsync(O_DSYNC)
    DataSync,
    /// LIO_NOP, in a list only.
    Nop,
    /// An opcode that does not exist, in a list only.
    BadOpcode,
    /// Not a request but the list notification of lio_listio.
    List,
    /// A write(2) that does not wait, by the program itself.
    Feed,
    /// A read(2) that does not wait, by the program itself.
    Take,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    None,
    Signal,
    Thread,
    /// An eventfd of its own.
    Event,
}

/// One request. `slot`, `block`, `blocks` and `skew` are taken modulo what the program offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    pub what: What,
    pub slot: u8,
    pub block: i8,
    pub blocks: u8,
    pub skew: u16,
    pub priority: u8,
    pub notify: Notify,
    /// 0: aio_read or aio_write. Its lowest two bits: that many cuts of the buffer, for a vectored request; the next: at
    /// the descriptor's own position, where that is no other place.
    pub form: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Submit(Io),
    List {
        wait: bool,
        notify: Notify,
        elements: Vec<Io>,
    },
    /// A list of more small requests on one slot than a kernel context has room for: `first` again and again, each at
    /// the next block, every third one a write.
    Crowd {
        wait: bool,
        count: u16,
        first: Io,
    },
    /// aio_suspend on requests counted back from the newest; no time-out if it is negative (milliseconds).
    Suspend {
        timeout: i32,
        picks: Vec<u16>,
    },
    Poll {
        pick: u16,
    },
    /// aio_waitcomplete, for so many milliseconds at most.
    Next {
        timeout: u8,
    },
    Cancel {
        pick: u16,
    },
    CancelAll {
        slot: u8,
    },
    Close {
        slot: u8,
    },
    /// dup2 of an object's end over a slot.
    Rebind {
        end: u8,
        slot: u8,
    },
    /// fork; the child looks at what it inherited and runs these requests.
    Fork {
        requests: Vec<Io>,
    },
    Feed {
        end: u8,
        skew: u16,
    },
    Take {
        end: u8,
        skew: u16,
    },
    /// Drop a file from the page cache, so that reads are cold.
    Evict {
        slot: u8,
    },
    /// shutdown(SHUT_WR) on a socket.
    Shutdown {
        end: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Signal handlers have SA_RESTART.
    pub restart: bool,
    /// What is left over at the end is cancelled first; otherwise it is fed with data.
    pub cancel_at_end: bool,
    pub objects: Vec<Object>,
    pub threads: Vec<Vec<Op>>,
}

impl Program {
    pub fn operations(&self) -> usize {
        self.threads.iter().map(Vec::len).sum()
    }
}

/// The names in the text form.
const OBJECTS: [(&str, Object); 6] = [
    ("buffered", Object::Buffered),
    ("direct", Object::Direct),
    ("append", Object::Append),
    ("pipe", Object::Pipe),
    ("stream", Object::Stream),
    ("packets", Object::Packets),
];
const WHATS: [(&str, What); 6] = [
    ("read", What::Read),
    ("write", What::Write),
    ("sync", What::Sync),
    ("datasync", What::DataSync),
    ("nop", What::Nop),
    ("badopcode", What::BadOpcode),
];
const NOTIFIES: [(&str, Notify); 4] = [
    ("none", Notify::None),
    ("signal", Notify::Signal),
    ("thread", Notify::Thread),
    ("event", Notify::Event),
];

fn name_of<T: PartialEq>(table: &[(&'static str, T)], value: T) -> &'static str {
    table.iter().find(|entry| entry.1 == value).map_or("?", |entry| entry.0)
}

fn named<T: Copy>(table: &[(&str, T)], name: &str) -> Result<T, String> {
    table
        .iter()
        .find(|entry| entry.0 == name)
        .map(|entry| entry.1)
        .ok_or_else(|| format!("unknown word {name}"))
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} slot {} block {} blocks {} skew {} priority {} notify {}",
            name_of(&WHATS, self.what),
            self.slot,
            self.block,
            self.blocks,
            self.skew,
            self.priority,
            name_of(&NOTIFIES, self.notify)
        )?;
        match self.form {
            0 => Ok(()),
            form => write!(f, " form {form}"),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Submit(io) => write!(f, "submit {io}"),
            Op::List { wait, notify, elements } => {
                write!(
                    f,
                    "list {} notify {}",
                    if *wait { "wait" } else { "nowait" },
                    name_of(&NOTIFIES, *notify)
                )?;
                elements.iter().try_for_each(|io| write!(f, "\n  element {io}"))
            }
            Op::Crowd { wait, count, first } => {
                write!(f, "crowd {} count {count} {first}", if *wait { "wait" } else { "nowait" })
            }
            Op::Suspend { timeout, picks } => write!(f, "suspend {timeout}{}", Numbers(picks)),
            Op::Poll { pick } => write!(f, "poll {pick}"),
            Op::Next { timeout } => write!(f, "next {timeout}"),
            Op::Cancel { pick } => write!(f, "cancel {pick}"),
            Op::CancelAll { slot } => write!(f, "cancelall {slot}"),
            Op::Close { slot } => write!(f, "close {slot}"),
            Op::Rebind { end, slot } => write!(f, "rebind {end} {slot}"),
            Op::Fork { requests } => {
                write!(f, "fork")?;
                requests.iter().try_for_each(|io| write!(f, "\n  element {io}"))
            }
            Op::Feed { end, skew } => write!(f, "feed {end} {skew}"),
            Op::Take { end, skew } => write!(f, "take {end} {skew}"),
            Op::Evict { slot } => write!(f, "evict {slot}"),
            Op::Shutdown { end } => write!(f, "shutdown {end}"),
        }
    }
}

struct Numbers<'a>(&'a [u16]);

impl fmt::Display for Numbers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|number| write!(f, " {number}"))
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        writeln!(text, "restart {}", self.restart)?;
        writeln!(text, "cancelatend {}", self.cancel_at_end)?;
        for object in &self.objects {
            writeln!(text, "object {}", name_of(&OBJECTS, *object))?;
        }
        for thread in &self.threads {
            writeln!(text, "thread")?;
            for op in thread {
                writeln!(text, "{op}")?;
            }
        }
        f.write_str(&text)
    }
}

/// The words of one line, taken one after the other.
struct Words<'a>(std::str::SplitWhitespace<'a>);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str, String> {
        self.0.next().ok_or_else(|| "line too short".to_string())
    }

    fn number<T: FromStr>(&mut self) -> Result<T, String> {
        let word = self.word()?;
        word.parse().map_err(|_| format!("not a number in range: {word}"))
    }

    fn labelled<T: FromStr>(&mut self, label: &str) -> Result<T, String> {
        let word = self.word()?;
        if word != label {
            return Err(format!("{label} expected, found {word}"));
        }
        self.number()
    }

    fn io(&mut self) -> Result<Io, String> {
        Ok(Io {
            what: named(&WHATS, self.word()?)?,
            slot: self.labelled("slot")?,
            block: self.labelled("block")?,
            blocks: self.labelled("blocks")?,
            skew: self.labelled("skew")?,
            priority: self.labelled("priority")?,
            notify: named(&NOTIFIES, &self.labelled::<String>("notify")?)?,
            form: match self.0.next() {
                Some("form") => self.number()?,
                _ => 0,
            },
        })
    }
}

impl FromStr for Program {
    type Err = String;

    fn from_str(text: &str) -> Result<Program, String> {
        let mut program =
            Program { restart: false, cancel_at_end: false, objects: Vec::new(), threads: Vec::new() };
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            add_line(&mut program, line).map_err(|reason| format!("{line}: {reason}"))?;
        }
        Ok(program)
    }
}

fn add_line(program: &mut Program, line: &str) -> Result<(), String> {
    let mut words = Words(line.split_whitespace());
    let op = match words.word()? {
        "restart" => {
            program.restart = words.number()?;
            return Ok(());
        }
        "cancelatend" => {
            program.cancel_at_end = words.number()?;
            return Ok(());
        }
        "object" => {
            program.objects.push(named(&OBJECTS, words.word()?)?);
            return Ok(());
        }
        "thread" => {
            program.threads.push(Vec::new());
            return Ok(());
        }
        "element" => {
            let io = words.io()?;
            return match program.threads.last_mut().and_then(|thread| thread.last_mut()) {
                Some(Op::List { elements, .. }) => {
                    elements.push(io);
                    Ok(())
                }
                Some(Op::Fork { requests }) => {
                    requests.push(io);
                    Ok(())
                }
                _ => Err("an element without a list".to_string()),
            };
        }
        "submit" => Op::Submit(words.io()?),
        "list" => Op::List {
            wait: words.word()? == "wait",
            notify: named(&NOTIFIES, &words.labelled::<String>("notify")?)?,
            elements: Vec::new(),
        },
        "crowd" => {
            Op::Crowd { wait: words.word()? == "wait", count: words.labelled("count")?, first: words.io()? }
        }
        "suspend" => {
            let timeout = words.number()?;
            let picks =
                words.0.by_ref().map(|word| word.parse().map_err(|_| format!("not a number: {word}")));
            Op::Suspend { timeout, picks: picks.collect::<Result<_, String>>()? }
        }
        "poll" => Op::Poll { pick: words.number()? },
        "next" => Op::Next { timeout: words.number()? },
        "cancel" => Op::Cancel { pick: words.number()? },
        "cancelall" => Op::CancelAll { slot: words.number()? },
        "close" => Op::Close { slot: words.number()? },
        "rebind" => Op::Rebind { end: words.number()?, slot: words.number()? },
        "fork" => Op::Fork { requests: Vec::new() },
        "feed" => Op::Feed { end: words.number()?, skew: words.number()? },
        "take" => Op::Take { end: words.number()?, skew: words.number()? },
        "evict" => Op::Evict { slot: words.number()? },
        "shutdown" => Op::Shutdown { end: words.number()? },
        other => return Err(format!("unknown operation {other}")),
    };
    program.threads.last_mut().ok_or("an operation before the first thread")?.push(op);
    Ok(())
}
