//! From a template's text to instructions in which whatever makes text or lists is a call of a function of ours.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::machinery::ast::{self, CallArg, Expr, Spanned, Stmt};
use minijinja::machinery::{CodeGenerator, Instructions, Span, Token, WhitespaceConfig, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Error, ErrorKind, Value};

/// More than any model's template is long.
const MAX_SOURCE: usize = 512 << 10;
/// Tokens of one tag, and `elif`s of a template: the parser goes as deep.
const MAX_TOKENS: usize = 4096;
const MAX_ELIFS: usize = 512;

/// A template's instructions and the variables that it reads and does not set, with their attributes as dotted paths.
pub(super) struct Compiled<'a> {
    pub root: Instructions<'a>,
    pub blocks: BTreeMap<&'a str, Instructions<'a>>,
    pub variables: BTreeSet<String>,
}

/// Compiles `source`; with `trim`, newlines after tags and spaces before them do not count.
pub(super) fn compile<'a>(name: &'a str, source: &'a str, trim: bool) -> Result<Compiled<'a>, Error> {
    let whitespace =
        || WhitespaceConfig { lstrip_blocks: trim, trim_blocks: trim, keep_trailing_newline: false };
    check_size(source, whitespace())?;
    let parsed = parse(source, name, SyntaxConfig, whitespace())?;
    let mut rewriter = Rewriter { source, read: BTreeSet::new(), assigned: BTreeSet::new() };
    let rewritten = rewriter.stmt(&parsed);
    let mut code = CodeGenerator::new(name, source);
    code.compile_stmt(&rewritten);
    let (root, blocks) = code.finish();
    Ok(Compiled { root, blocks, variables: rewriter.free_variables() })
}

/// Refuses what the recursive parser would take too deep.
fn check_size(source: &str, whitespace: WhitespaceConfig) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::SyntaxError, what));
    if source.len() > MAX_SOURCE {
        return refuse(format!("it is longer than {MAX_SOURCE} bytes"));
    }
    let (mut in_tag, mut elifs) = (0, 0);
    for token in tokenize(source, false, SyntaxConfig, whitespace) {
        let (token, span) = token?;
        in_tag = match token {
            Token::VariableStart | Token::BlockStart | Token::TemplateData(_) => 0,
            _ => in_tag + 1,
        };
        elifs += usize::from(matches!(token, Token::Ident("elif")));
        if in_tag > MAX_TOKENS {
            return refuse(format!(
                "a tag has more than {MAX_TOKENS} tokens (line {} of it)",
                span.start_line
            ));
        }
        if elifs > MAX_ELIFS {
            return refuse(format!("it has more than {MAX_ELIFS} `elif`s"));
        }
    }
    Ok(())
}

/// Copies a syntax tree. Operators that make text or lists become calls, and text outside tags is printed like any value, so
/// that our functions and our formatter can bound both.
struct Rewriter<'s> {
    source: &'s str,
    read: BTreeSet<String>,
    assigned: BTreeSet<String>,
}

impl Rewriter<'_> {
    fn free_variables(self) -> BTreeSet<String> {
        let root = |path: &str| path.split('.').next().unwrap_or_default().to_string();
        self.read.into_iter().filter(|path| !self.assigned.contains(&root(path))).collect()
    }

    fn stmts<'a>(&mut self, stmts: &[Stmt<'a>]) -> Vec<Stmt<'a>> {
        stmts.iter().map(|stmt| self.stmt(stmt)).collect()
    }

    fn stmt<'a>(&mut self, stmt: &Stmt<'a>) -> Stmt<'a> {
        match stmt {
            Stmt::Template(s) => at(s, ast::Template { children: self.stmts(&s.children) }, Stmt::Template),
            Stmt::EmitExpr(s) => at(s, ast::EmitExpr { expr: self.expr(&s.expr) }, Stmt::EmitExpr),
            Stmt::EmitRaw(s) => {
                let text = constant(Value::from(s.raw), s.span());
                at(s, ast::EmitExpr { expr: text }, Stmt::EmitExpr)
            }
            Stmt::ForLoop(s) => {
                let (target, iter) = (self.target(&s.target), self.expr(&s.iter));
                let filter_expr = self.maybe(&s.filter_expr);
                let (body, else_body) = (self.stmts(&s.body), self.stmts(&s.else_body));
                let recursive = s.recursive;
                at(s, ast::ForLoop { target, iter, filter_expr, recursive, body, else_body }, Stmt::ForLoop)
            }
            Stmt::IfCond(s) => {
                let expr = self.expr(&s.expr);
                let (true_body, false_body) = (self.stmts(&s.true_body), self.stmts(&s.false_body));
                at(s, ast::IfCond { expr, true_body, false_body }, Stmt::IfCond)
            }
            Stmt::WithBlock(s) => {
                let pair = |(target, value): &(Expr<'a>, Expr<'a>)| (self.target(target), self.expr(value));
                let assignments = s.assignments.iter().map(pair).collect();
                at(s, ast::WithBlock { assignments, body: self.stmts(&s.body) }, Stmt::WithBlock)
            }
            Stmt::Set(s) => {
                at(s, ast::Set { target: self.target(&s.target), expr: self.expr(&s.expr) }, Stmt::Set)
            }
            Stmt::SetBlock(s) => {
                let (target, filter) = (self.target(&s.target), self.maybe(&s.filter));
                at(s, ast::SetBlock { target, filter, body: self.stmts(&s.body) }, Stmt::SetBlock)
            }
            Stmt::AutoEscape(s) => {
                let (enabled, body) = (self.expr(&s.enabled), self.stmts(&s.body));
                at(s, ast::AutoEscape { enabled, body }, Stmt::AutoEscape)
            }
            Stmt::FilterBlock(s) => {
                let (filter, body) = (self.expr(&s.filter), self.stmts(&s.body));
                at(s, ast::FilterBlock { filter, body }, Stmt::FilterBlock)
            }
            Stmt::Block(s) => {
                let (name, required, body) = (s.name, s.required, self.stmts(&s.body));
                at(s, ast::Block { name, required, body }, Stmt::Block)
            }
            Stmt::Import(s) => {
                let (expr, name) = (self.expr(&s.expr), self.target(&s.name));
                at(s, ast::Import { expr, name }, Stmt::Import)
            }
            Stmt::FromImport(s) => {
                let pair = |(name, alias): &(Expr<'a>, Option<Expr<'a>>)| {
                    (self.target(name), alias.as_ref().map(|alias| self.target(alias)))
                };
                let names = s.names.iter().map(pair).collect();
                at(s, ast::FromImport { expr: self.expr(&s.expr), names }, Stmt::FromImport)
            }
            Stmt::Extends(s) => at(s, ast::Extends { name: self.expr(&s.name) }, Stmt::Extends),
            Stmt::Include(s) => {
                let (name, ignore_missing) = (self.expr(&s.name), s.ignore_missing);
                at(s, ast::Include { name, ignore_missing }, Stmt::Include)
            }
            Stmt::Macro(s) => {
                self.assigned.insert(s.name.to_string());
                Stmt::Macro(self.macro_decl(s))
            }
            Stmt::CallBlock(s) => {
                let (call, macro_decl) = (self.call(&s.call), self.macro_decl(&s.macro_decl));
                at(s, ast::CallBlock { call, macro_decl }, Stmt::CallBlock)
            }
            Stmt::Continue(s) => at(s, ast::Continue, Stmt::Continue),
            Stmt::Break(s) => at(s, ast::Break, Stmt::Break),
            Stmt::Do(s) => at(s, ast::Do { call: self.call(&s.call) }, Stmt::Do),
        }
    }

    fn macro_decl<'a>(&mut self, s: &Spanned<ast::Macro<'a>>) -> Spanned<ast::Macro<'a>> {
        let args = s.args.iter().map(|arg| self.target(arg)).collect();
        let (name, defaults, body) = (s.name, self.exprs(&s.defaults), self.stmts(&s.body));
        Spanned::new(ast::Macro { name, args, defaults, body }, s.span())
    }

    /// What is assigned to: names, lists of them, or an attribute of a namespace.
    fn target<'a>(&mut self, expr: &Expr<'a>) -> Expr<'a> {
        match expr {
            Expr::Var(s) => {
                self.assigned.insert(s.id.to_string());
                at(s, ast::Var { id: s.id }, Expr::Var)
            }
            Expr::List(s) => {
                let items = s.items.iter().map(|item| self.target(item)).collect();
                at(s, ast::List { items }, Expr::List)
            }
            other => self.expr(other),
        }
    }

    fn exprs<'a>(&mut self, exprs: &[Expr<'a>]) -> Vec<Expr<'a>> {
        exprs.iter().map(|expr| self.expr(expr)).collect()
    }

    fn maybe<'a>(&mut self, expr: &Option<Expr<'a>>) -> Option<Expr<'a>> {
        expr.as_ref().map(|expr| self.expr(expr))
    }

    fn expr<'a>(&mut self, expr: &Expr<'a>) -> Expr<'a> {
        if let Some(path) = dotted(expr) {
            self.read.insert(path);
        }
        match expr {
            Expr::Var(s) => at(s, ast::Var { id: s.id }, Expr::Var),
            Expr::Const(s) => constant(s.value.clone(), s.span()),
            Expr::Slice(s) => {
                let mut args = vec![self.expr(&s.expr)];
                for bound in [&s.start, &s.stop, &s.step] {
                    args.push(self.maybe(bound).unwrap_or_else(|| constant(().into(), s.span())));
                }
                function("[:]", args, s.span())
            }
            Expr::UnaryOp(s) => {
                let not = matches!(s.op, ast::UnaryOpKind::Not);
                let op = if not { ast::UnaryOpKind::Not } else { ast::UnaryOpKind::Neg };
                at(s, ast::UnaryOp { op, expr: self.expr(&s.expr) }, Expr::UnaryOp)
            }
            Expr::BinOp(s) => {
                let (left, right) = (self.expr(&s.left), self.expr(&s.right));
                match operator(s.op) {
                    Some(name) => function(name, vec![left, right], s.span()),
                    None if compares(s.op) => {
                        let check = if orders(s.op) { ordered } else { small };
                        let (left, right) = (check(left), check(right));
                        at(s, ast::BinOp { op: s.op, left, right }, Expr::BinOp)
                    }
                    None => at(s, ast::BinOp { op: s.op, left, right }, Expr::BinOp),
                }
            }
            Expr::Compare(s) => {
                let op =
                    |op: &ast::CompareOp<'a>| ast::CompareOp { op: op.op, expr: small(self.expr(&op.expr)) };
                let ops = s.ops.iter().map(op).collect();
                at(s, ast::Compare { expr: small(self.expr(&s.expr)), ops }, Expr::Compare)
            }
            Expr::IfExpr(s) => {
                let (test_expr, true_expr) = (self.expr(&s.test_expr), self.expr(&s.true_expr));
                let false_expr = self.maybe(&s.false_expr);
                at(s, ast::IfExpr { test_expr, true_expr, false_expr }, Expr::IfExpr)
            }
            Expr::Filter(s) => {
                let (name, expr, args) = (s.name, self.maybe(&s.expr), self.args(&s.args));
                at(s, ast::Filter { name, expr, args }, Expr::Filter)
            }
            Expr::Test(s) => {
                let (name, expr, args) = (s.name, self.expr(&s.expr), self.args(&s.args));
                at(s, ast::Test { name, expr, args }, Expr::Test)
            }
            Expr::GetAttr(s) => at(s, ast::GetAttr { expr: self.expr(&s.expr), name: s.name }, Expr::GetAttr),
            Expr::GetItem(s) => {
                let (expr, subscript_expr) = (self.expr(&s.expr), small(self.expr(&s.subscript_expr)));
                at(s, ast::GetItem { expr, subscript_expr }, Expr::GetItem)
            }
            Expr::Call(s) => Expr::Call(self.call(s)),
            Expr::List(s) => {
                let items = self.exprs(&s.items);
                match self.source[s.span().start_offset as usize..].starts_with('[') {
                    true => at(s, ast::List { items }, Expr::List),
                    false => function("(,)", items, s.span()),
                }
            }
            Expr::Map(s) => {
                let keys = s.keys.iter().map(|key| small(self.expr(key))).collect();
                let values = self.exprs(&s.values);
                at(s, ast::Map { keys, values }, Expr::Map)
            }
        }
    }

    fn call<'a>(&mut self, s: &Spanned<ast::Call<'a>>) -> Spanned<ast::Call<'a>> {
        let expr = match &s.expr {
            // The name of a method is no variable.
            Expr::GetAttr(attr) => {
                at(attr, ast::GetAttr { expr: self.expr(&attr.expr), name: attr.name }, Expr::GetAttr)
            }
            other => self.expr(other),
        };
        let mut args = self.args(&s.args);
        if matches!(&expr, Expr::GetAttr(attr) if attr.name == "changed") {
            // The method of a loop that compares.
            let compared = |arg| if let CallArg::Pos(expr) = arg { CallArg::Pos(small(expr)) } else { arg };
            args = args.into_iter().map(compared).collect();
        }
        Spanned::new(ast::Call { expr, args }, s.span())
    }

    fn args<'a>(&mut self, args: &[CallArg<'a>]) -> Vec<CallArg<'a>> {
        let arg = |arg: &CallArg<'a>| match arg {
            CallArg::Pos(expr) => CallArg::Pos(self.expr(expr)),
            CallArg::Kwarg(name, expr) => CallArg::Kwarg(name, self.expr(expr)),
            CallArg::PosSplat(expr) => CallArg::PosSplat(self.expr(expr)),
            CallArg::KwargSplat(expr) => CallArg::KwargSplat(self.expr(expr)),
        };
        args.iter().map(arg).collect()
    }
}

/// A node in the place of `old`.
fn at<O, N, T>(old: &Spanned<O>, node: N, wrap: impl Fn(Spanned<N>) -> T) -> T {
    wrap(Spanned::new(node, old.span()))
}

fn constant<'a>(value: Value, span: Span) -> Expr<'a> {
    Expr::Const(Spanned::new(ast::Const { value }, span))
}

fn function<'a>(name: &'static str, args: Vec<Expr<'a>>, span: Span) -> Expr<'a> {
    let expr = Expr::Var(Spanned::new(ast::Var { id: name }, span));
    let args = args.into_iter().map(CallArg::Pos).collect();
    Expr::Call(Spanned::new(ast::Call { expr, args }, span))
}

/// The function of an operator that makes texts or lists, or that Python computes in its own way.
fn operator(op: ast::BinOpKind) -> Option<&'static str> {
    match op {
        ast::BinOpKind::Add => Some("+"),
        ast::BinOpKind::Mul => Some("*"),
        ast::BinOpKind::Rem => Some("%"),
        ast::BinOpKind::FloorDiv => Some("//"),
        ast::BinOpKind::Concat => Some("~"),
        ast::BinOpKind::In => Some("in"),
        _ => None,
    }
}

/// `expr`, checked to be small: comparing and hashing go as deep as a value, and one that holds itself has no end.
fn small(expr: Expr<'_>) -> Expr<'_> {
    checked(expr, "small()")
}

/// As [`small`], and checked to be there: Jinja says of nothing that it is undefined whether it is smaller.
fn ordered(expr: Expr<'_>) -> Expr<'_> {
    checked(expr, "ordered()")
}

fn checked<'a>(expr: Expr<'a>, by: &'static str) -> Expr<'a> {
    if matches!(expr, Expr::Const(_)) {
        return expr;
    }
    let span = expr.span();
    function(by, vec![expr], span)
}

fn compares(op: ast::BinOpKind) -> bool {
    orders(op) || matches!(op, ast::BinOpKind::Eq | ast::BinOpKind::Ne)
}

fn orders(op: ast::BinOpKind) -> bool {
    use ast::BinOpKind::{Gt, Gte, Lt, Lte};
    matches!(op, Gt | Gte | Lt | Lte)
}

/// `a.b.c` as it is written; nothing for longer paths than anyone writes.
fn dotted(expr: &Expr<'_>) -> Option<String> {
    let mut names = Vec::new();
    let mut expr = expr;
    while let (Expr::GetAttr(attr), 0..16) = (expr, names.len()) {
        names.push(attr.name);
        expr = &attr.expr;
    }
    let Expr::Var(root) = expr else { return None };
    names.push(root.id);
    names.reverse();
    Some(names.join("."))
}
