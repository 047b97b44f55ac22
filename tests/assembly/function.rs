//! One function of an assembly file (x86-64, in the syntax that LLVM prints).

use std::collections::{BTreeSet, HashMap, VecDeque};

/// The instructions of one function, one text each: `lock cmpxchgb %al, (%rdi)`.
pub struct Function {
    instructions: Vec<String>,
    /// Which instruction comes after each label.
    labels: HashMap<String, usize>,
}

impl Function {
    /// The function `name` of `assembly`.
    pub fn find(assembly: &str, name: &str) -> Function {
        let label = format!("{name}:");
        let mut function = Function { instructions: vec![], labels: HashMap::new() };
        let mut prefix = None;
        for line in assembly.lines().skip_while(|line| *line != label).skip(1) {
            let line = line.split('#').next().unwrap_or_default();
            let text = line.split_whitespace().collect::<Vec<_>>().join(" ");
            if text.starts_with(".cfi_endproc") {
                break;
            } else if let Some(label) = text.strip_suffix(':') {
                function.labels.insert(label.to_owned(), function.instructions.len());
            } else if text == "lock" {
                // The prefix has a line of its own.
                prefix = Some(text);
            } else if !text.is_empty() && !text.starts_with('.') {
                let instruction = prefix.take().map_or(text.clone(), |lock| lock + " " + &text);
                function.instructions.push(instruction);
            }
        }
        assert!(!function.instructions.is_empty(), "{name} is not in the assembly");
        function
    }

    /// The whole function, for a message.
    pub fn listing(&self) -> String {
        self.instructions.join("\n")
    }

    /// How many instructions lock the bus: those that say so, and swaps with memory, which
    /// always do.
    pub fn locked(&self) -> usize {
        let swaps = |text: &str| text.starts_with("xchg") && text.contains('(');
        self.instructions.iter().filter(|text| text.starts_with("lock ") || swaps(text)).count()
    }

    /// Whether an instruction of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.instructions.iter().any(|text| mnemonic(text) == name)
    }

    /// Calls and jumps whose target is in a register, or in memory other than the linker's
    /// table of symbols.
    pub fn indirect(&self) -> Vec<&str> {
        let leaves = |text: &&String| is_call(text) || is_jump(text);
        let pointer = |text: &&String| text.contains('*') && !text.contains("@GOTPCREL(%rip)");
        self.instructions.iter().filter(leaves).filter(pointer).map(String::as_str).collect()
    }

    /// The functions that this one calls, or jumps to at its end.
    pub fn callees(&self) -> BTreeSet<&str> {
        self.instructions.iter().filter_map(|text| self.callee(text)).collect()
    }

    /// The function that the instruction `text` leads to, if it leaves this one.
    fn callee<'a>(&self, text: &'a str) -> Option<&'a str> {
        let target = text.split(' ').nth(1).filter(|_| is_call(text) || is_jump(text))?;
        let symbol = target.trim_start_matches('*').split('@').next().unwrap_or(target);
        (!self.labels.contains_key(symbol)).then_some(symbol)
    }

    /// How many instructions the shortest way from the entry to a return has, on which
    /// something is locked and nothing is called.
    pub fn shortest_path_without_call(&self) -> Option<usize> {
        let mut queue = VecDeque::from([(0, false, 0)]);
        let mut seen = BTreeSet::new();
        while let Some((at, locked, length)) = queue.pop_front() {
            let Some(text) = self.instructions.get(at) else { continue };
            if !seen.insert((at, locked)) {
                continue;
            }
            let locked = locked || text.starts_with("lock ");
            if mnemonic(text) == "retq" || mnemonic(text) == "ret" {
                if locked {
                    return Some(length + 1);
                }
            } else if is_jump(text) {
                let target = text.split(' ').nth(1).and_then(|label| self.labels.get(label));
                queue.extend(target.map(|target| (*target, locked, length + 1)));
                if mnemonic(text) != "jmp" {
                    queue.push_back((at + 1, locked, length + 1));
                }
            } else if !is_call(text) {
                queue.push_back((at + 1, locked, length + 1));
            }
        }
        None
    }
}

fn mnemonic(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

fn is_call(text: &str) -> bool {
    mnemonic(text).starts_with("call")
}

fn is_jump(text: &str) -> bool {
    mnemonic(text).starts_with('j')
}

mod tests {
    use super::Function;

    const GOOD: &str = "
other:
	xchgb	%al, (%rdi)
	.cfi_endproc
f:
	.cfi_startproc
	movb	$1, %cl
	xorl	%eax, %eax
	lock
	cmpxchgb	%cl, (%rdi)
	jne	.LBB0_2
.LBB0_1:
	incl	4(%rdi)
	xchgl	%eax, %ecx
	movb	$0, (%rdi)
	cmpb	$0, table(%rip)  # a comment
	jne	_ZN8lockword4slow17h0E
	retq
.LBB0_2:
	callq	*_ZN8lockword4park17h0E@GOTPCREL(%rip)
	jmp	.LBB0_1
	.cfi_endproc
g:
	mfence
";

    #[test]
    fn reads_one_function_and_no_other() {
        let f = Function::find(GOOD, "f");
        assert_eq!(f.locked(), 1);
        assert!(!f.has("mfence"));
        assert!(f.indirect().is_empty());
        let callees: Vec<_> = f.callees().into_iter().collect();
        assert_eq!(callees, ["_ZN8lockword4park17h0E", "_ZN8lockword4slow17h0E"]);
        assert_eq!(f.shortest_path_without_call(), Some(10));
    }

    #[test]
    fn sees_what_must_not_be_there() {
        let swap = GOOD.replace("movb	$0, (%rdi)", "xchgb	%al, (%rdi)");
        assert_eq!(Function::find(&swap, "f").locked(), 2);
        let fence = GOOD.replace("incl	4(%rdi)", "mfence");
        assert!(Function::find(&fence, "f").has("mfence"));
        let pointer = GOOD.replace("incl	4(%rdi)", "callq	*%rax");
        let pointer = Function::find(&pointer, "f");
        assert_eq!(pointer.indirect(), ["callq *%rax"]);
        assert_eq!(pointer.shortest_path_without_call(), None);
        let call = GOOD.replace("incl	4(%rdi)", "callq	stranger@PLT");
        assert!(Function::find(&call, "f").callees().contains("stranger"));
        let jump = GOOD.replace("retq", "jmp	stranger");
        assert!(Function::find(&jump, "f").callees().contains("stranger"));
        assert_eq!(Function::find(&jump, "f").shortest_path_without_call(), None);
    }
}
