use std::time::{Duration, Instant};

use serde_json::json;

use super::*;

fn chat(source: &str) -> std::result::Result<String, String> {
    let style = Style { trim: true, strict: false };
    let templates = Templates::new(vec![source.to_string()], Vec::new(), style).map_err(|(_, e)| e.what)?;
    let context = json!({"question": "hi", "items": [1, "a", true, null, 2.0], "pair": {"a": "b"}});
    templates.render(0, Value::from_serialize(context)).map_err(|e| e.what)
}

/// Each is refused in a sentence, and soon.
#[track_caller]
fn refused(sources: &[&str]) {
    for source in sources {
        let clock = Instant::now();
        let shown: String = source.chars().take(80).collect();
        let error = chat(source).expect_err(&shown);
        assert!(clock.elapsed() < Duration::from_secs(2), "{shown}: {:?}", clock.elapsed());
        assert!(!error.is_empty() && error.len() < 3000, "{shown}: {error}");
    }
}

#[test]
fn loops_without_end_are_refused() {
    let nested = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}";
    let recursive = "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}";
    let recursive_loop = "{% for i in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}";
    let block = "{% block b %}{{ self.b() }}{% endblock %}";
    let equal = "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}\
        {% set n.b = [n.b, n.b] %}{% endfor %}{{ n.a == n.b }}";
    refused(&[nested, recursive, recursive_loop, block, equal]);
}

#[test]
fn texts_and_lists_without_bounds_are_refused() {
    let doubled = |body: &str| {
        format!(
            "{{% set n = namespace(s='x', l=[1]) %}}{{% for i in range(60) %}}{body}{{% endfor %}}{{{{ n.l }}}}"
        )
    };
    let grown = [
        "{% set n.s = n.s ~ n.s %}",
        "{% set n.s = n.s + n.s %}",
        "{% set n.s = n.s * 2 %}",
        "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}",
        "{% set n.s = [n.s, n.s]|join %}",
        "{% set n.s = n.s|replace('x', 'xx') %}",
        "{% set n.s = n.s.replace('x', 'xx') %}",
        "{% set n.s = '%s%s' % (n.s, n.s) %}",
        "{% set n.s = '{0}{0}'.format(n.s) %}",
        "{% set n.l = n.l + n.l %}",
        "{% set n.l = n.l * 2 %}",
        "{% set n.l = [n.l, n.l] %}",
        "{% set n.l = [n.l, n.l]|sum(start=[]) %}",
        "{% set n.l = [n.l, n.l]|list %}{{ n.l|string|length }}",
    ];
    for body in grown {
        refused(&[&doubled(body)]);
    }
    refused(&[
        "{% set p = range(9000)|zip(range(9000))|list %}{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = n.l + [dict(p)] %}{% endfor %}",
        "{% set p = dict(range(9000)|map('string')|zip(range(9000))) %}{% set n = namespace(l=[]) %}{% for i in range(999) %}{% set n.l = n.l + [namespace(p)] %}{% endfor %}",
        "{{ 'x' * 4000000000 }}",
        "{{ ('x' * 99999999) ~ ('x' * 99999999) }}",
        "{{ 'x\ny'|indent(4000000000) }}",
        "{{ 'x\ny'|indent(width=4000000000) }}",
        "{{ '%4000000000d' % 1 }}",
        "{{ '%*d' % (400000000, 1) }}",
        "{{ '{:>4000000000}'.format(1) }}",
        "{{ '{:>{}}'.format(1, 400000000) }}",
        "{{ [1]|batch(4000000000, 1) }}",
        "{{ [1]|slice(4000000000) }}",
        "{{ 'x'|center(4000000000) }}",
        "{{ 'x'.ljust(4000000000) }}",
        "{{ '1'.zfill(4000000000) }}",
        "{{ [1] * 10**11 }}",
        "{{ [1] * 10**11|list }}",
        "{{ range(10**9)|list }}",
        "{{ question|tojson(indent=' ' * 8000000) }}{{ [[[1]]]|tojson(indent=' ' * 8000000) }}",
        "{% for i in range(90000) %}{{ 'x' * 4000 }}{% endfor %}",
        "{% set x = 'x' * 8000000 %}{{ [x, x]|join }}",
        "{{ 'x'.replace('', 'y' * 8000000) }}",
        "{{ ('x' * 8000)|replace('x', 'y' * 8000) }}",
        "{{ debug() }}",
        "{{ raise_exception('x' * 8000000) }}",
        "{{ '%s' * 4000000 % question }}",
        "{{ 1|round(4000000000) }}",
    ]);
}

#[test]
fn values_nested_without_bounds_are_refused() {
    let grown = |body: &str, end: &str| {
        format!("{{% set n = namespace(x=[]) %}}{{% for i in range(90000) %}}{body}{{% endfor %}}{end}")
    };
    for end in [
        "{{ n.x }}",
        "{{ n.x|tojson }}",
        "{{ n.x|string }}",
        "{{ n.x ~ '' }}",
        "{{ 'a' in n.x }}{{ n.x in 'a' }}",
    ] {
        refused(&[&grown("{% set n.x = [n.x] %}", end), &grown("{% set n.x = {'a': n.x} %}", end)]);
    }
    refused(&[
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
        "{% set n = namespace() %}{% set n.n = [n] %}{{ n|tojson }}",
    ]);
    // Deep, and never looked at: it is dropped.
    for body in [
        "{% set n.x = [n.x] %}",
        "{% set n.x = namespace(a=n.x) %}",
        "{% set n.x = dict(a=n.x) %}",
        "{% set n.x = [n.x]|reverse %}",
        "{% set p = n.x %}{% macro m() %}{{ p }}{% endmacro %}{% set n.x = m %}",
        "{% for y in [n.x] %}{% set n.x = loop %}{% endfor %}",
        "{% set n.x = n.x[0:] %}",
        "{% set n.x = n.x + [1] %}",
    ] {
        let _ = chat(&grown(body, "ok"));
    }
}

#[test]
fn syntax_nested_without_bounds_is_refused() {
    let many = |part: &str| part.repeat(100_000);
    let sources = [
        format!("{{{{ {}1 }}}}", many("-")),
        format!("{{{{ {}1 }}}}", many("not ")),
        format!("{{{{ {}1 }}}}", many("(")),
        format!("{{{{ {} }}}}", many("[")),
        format!("{{{{ a{} }}}}", many(".a")),
        format!("{{{{ a{} }}}}", many("|string")),
        format!("{{{{ a{} }}}}", many("~a")),
        format!("{{{{ 1{} }}}}", many("+1")),
        format!("{{{{ 1{} }}}}", many("**1")),
        format!("{{{{ 1{} }}}}", many(" if 1 else 1")),
        many("{% if 1 %}"),
        format!("{{% if 1 %}}{}{{% endif %}}", many("{% elif 1 %}")),
        many("{% for i in [1] %}"),
        many("{% set x %}"),
        "x".repeat(1 << 20),
    ];
    for source in &sources {
        refused(&[source]);
    }
}

#[test]
fn the_deepest_syntax_and_the_deepest_values_fit_the_stack() {
    for part in ["-", "not "] {
        chat(&format!("{{{{ {}1 }}}}", part.repeat(4000))).unwrap();
    }
    for part in ["~a", "+1", "**1", "|string", " if 1 else 1"] {
        let _ = chat(&format!("{{{{ 1{} }}}}", part.repeat(1000)));
    }
    let same = "{% set n = namespace(a=[], b=[]) %}{% for i in range(60000) %}{% set n.a = [n.a] %}{% set n.b = [n.b] %}{% endfor %}";
    refused(&[&format!("{same}{{{{ n.a == n.b }}}}")]);
    let held = "{% set n = namespace(x=1) %}{% set m = namespace(x=1) %}{% set n.x = n %}{% set m.x = m %}";
    for end in [
        "{{ n == m }}",
        "{{ {n: 1} }}",
        "{{ pair[n] }}",
        "{{ 1 < n < m }}",
        "{{ n is eq m }}",
        "{{ [n] in [m] }}",
    ] {
        refused(&[&format!("{held}{end}")]);
    }
    let changed = "{% for i in [1, 2] %}{{ loop.changed(n if i == 1 else m) }}{% endfor %}";
    refused(&[&format!("{held}{changed}")]);
}

#[test]
fn threads_that_ask_at_once_each_get_their_own_text() {
    let style = Style { trim: true, strict: true };
    let templates = Templates::new(vec!["<{{ n }}>".into(), "{{ n }}!".into()], Vec::new(), style).unwrap();
    std::thread::scope(|scope| {
        for n in 0..16 {
            let templates = &templates;
            scope.spawn(move || {
                for i in 0..20 {
                    let context = || Value::from_serialize(json!({"n": 100 * n + i}));
                    assert_eq!(templates.render(0, context()).unwrap(), format!("<{}>", 100 * n + i));
                    assert_eq!(templates.render(1, context()).unwrap(), format!("{}!", 100 * n + i));
                }
            });
        }
    });
}

#[test]
fn a_template_that_was_given_up_is_not_asked_again() {
    let style = Style { trim: true, strict: false };
    let source = "{% for i in range(9999) %}{{ range(99999)|sort|length }}{% endfor %}";
    let templates = Templates::new(vec![source.to_string()], Vec::new(), style).unwrap();
    let said = |context| templates.render(0, Value::from_serialize(context)).unwrap_err().what;
    assert_eq!(said(json!({})), "it takes longer than 1200 ms");
    assert_eq!(said(json!({})), "it has been given up at an earlier prompt");
}

// The expected texts are Jinja's, in the environment of `transformers`.
#[test]
fn values_and_operators_are_pythons() {
    for (source, text) in [
        ("{{ items }}{{ pair }}{{ none }}{{ true }}", "[1, 'a', True, None, 2.0]{'a': 'b'}NoneTrue"),
        ("{{ items ~ 1 }}|{{ items|string|length }}", "[1, 'a', True, None, 2.0]1|25"),
        ("{{ items|join(',') }}|{{ ','.join(['a', 'b']) }}", "1,a,True,None,2.0|a,b"),
        ("{{ '%s/%d %05.1f %s' % ('a', 7, 2.25, [1]) }}", "a/7 002.2 [1]"),
        ("{{ '%(a)s' % pair }}{{ '%s' % none }}{{ 'a%s'|format('b') }}", "bNoneab"),
        ("{{ '{}-{n}'.format('a', n=true) }}", "a-True"),
        (
            "{{ -7 % 3 }} {{ 7 // -2 }} {{ 7.5 // 2 }} {{ '=' * 3 }} {{ 2 * [1] }} {{ true + 1 }}",
            "2 -4 3.0 === [1, 1] 2",
        ),
        ("{{ 'abcdef'[::-1] }}{{ 'abc'[-2:] }}{{ [1, 2, 3][:-1] }}{{ 'abc'[1:99] }}", "fedcbabc[1, 2]bc"),
        ("{{ 'a.b.c'.rsplit('.', 1) }}{{ 'x,y'.partition(',') }}", "['a.b', 'c']('x', ',', 'y')"),
        ("{{ 'hi'.removeprefix('h') }}{{ 'hi'.removesuffix('i') }}{{ 'é=x'.find('x') }}", "ih2"),
        (
            "{{ 'ab'.center(5, '*') }}{{ '7'.zfill(3) }}{{ '-7'.zfill(4) }}{{ 'a'.ljust(3) }}|",
            "**ab*007-007a  |",
        ),
        ("{{ 'aXb'.swapcase() }}{{ 'aaa'.count('a') }}{{ ''.isdigit() }}{{ 'a' in pair }}", "AxB3FalseTrue"),
        (
            "{{ 'a b c'|wordcount }}{{ 'abc def ghi'|truncate(7, leeway=0) }}{{ 'a'|center(3) }}|",
            "3abc... a |",
        ),
        ("{{ pair|items|list }}{{ pair.items()|list }}{{ pair.get('x') }}", "[('a', 'b')][('a', 'b')]None"),
    ] {
        assert_eq!(chat(source).as_deref(), Ok(text), "{source}");
    }
}

#[test]
fn what_is_undefined_is_empty_in_chat_templates() {
    let text = "{{ x }}|{{ x|length }}|{{ 'a' in x }}|{{ x|upper }}|{{ x|join(',') }}|{{ x|first }}|{{ x ~ 'a' }}|\
        {% for i in x %}1{% endfor %}{{ x|default('d') }}|{{ x is defined }}|{{ 1 if x else 2 }}|{{ x|list }}|{{ question.x }}";
    assert_eq!(chat(text).unwrap(), "|0|False||||a|d|False|2|[]|");
    for source in ["{{ x.y }}", "{{ x['y'] }}", "{{ x + 1 }}", "{{ x() }}"] {
        assert!(chat(source).is_err(), "{source}");
    }
}
