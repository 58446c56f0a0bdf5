package worker

import (
	"fmt"
	"strings"
	"text/template/parse"
)

// Placeholder is a name that stands in a text for a value, as {{percent}} does.
type Placeholder struct{ Name, Meaning string }

// Placeholders are all that a text may name.
var Placeholders = []Placeholder{
	{"recipient_name", "the name of who is told, of 100 characters at most; nothing where there is none"},
	{"user_name", "the name of who used the tokens, likewise: the same, but in `admin`; nothing in `budget`"},
	{"threshold", "the threshold, a number"},
	{"tokens_used", "tokens used in this period"},
	{"token_limit", "the limit, in tokens"},
	{"token_word", "the word `token` or `tokens`, as fits `tokens_used`"},
	{"percent", "used of the limit, with a decimal, rounded down, and the sign"},
	{"reset_date", "the day on which the limit resets"},
	{"pace", "a sentence: on which day the limit will be reached at this pace; nothing where that is not known, or not before the reset"},
	{"pace_date", "that day alone; nothing where `pace` is nothing"},
}

// template is one title or message, parsed. The syntax is that of text/template,
// by the parser of the standard library, of which a template uses placeholders
// and {{if}} alone. It is filled in here: text/template looks up methods by their
// names at run time, for which the linker keeps every method of every type, and
// that makes the binary 3 MB larger. And so little can be said in it that nothing
// can fail once the template has been checked.
type template struct {
	name string // its file's
	root *parse.ListNode
}

// parseTemplate reads a template, and says all that is wrong with it, each with
// file and line.
func parseTemplate(name, source string) (template, []error) {
	tree := parse.New(name)
	tree.Mode = parse.SkipFuncCheck // the check of placeholders says more
	trees := map[string]*parse.Tree{}
	if _, err := tree.Parse(source, "", "", trees); err != nil {
		text, _, _ := oneLine(strings.TrimPrefix(err.Error(), "template: "), 300)
		return template{}, []error{fmt.Errorf("%s; %s", text, allowedInTemplates)}
	}
	if len(trees) > 1 || len(trees) == 1 && trees[name] == nil {
		return template{}, []error{fmt.Errorf("%s: has a {{define}} or {{block}}; %s", name, allowedInTemplates)}
	}
	check := templateCheck{tree: tree}
	check.list(tree.Root)
	return template{name, tree.Root}, check.errs
}

const allowedInTemplates = "a text may have {{PLACEHOLDER}} and {{if PLACEHOLDER}} … {{else}} … {{end}}"

type templateCheck struct {
	tree *parse.Tree
	errs []error
}

func (c *templateCheck) list(list *parse.ListNode) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
		case *parse.ActionNode:
			c.pipe(n.Pipe)
		case *parse.IfNode:
			c.pipe(n.Pipe)
			c.list(n.List)
			c.list(n.ElseList)
		default:
			c.refuse(node, "%s is not understood; %s", quoteNode(node), allowedInTemplates)
		}
	}
}

func (c *templateCheck) pipe(pipe *parse.PipeNode) {
	name := placeholderIn(pipe)
	if name == "" {
		c.refuse(pipe, "%s is not understood; %s", quoteNode(pipe), allowedInTemplates)
		return
	}
	names := make([]string, len(Placeholders))
	for i, p := range Placeholders {
		if names[i] = p.Name; name == p.Name {
			return
		}
	}
	if nearest := Nearest(name, names); nearest != "" {
		c.refuse(pipe, "{{%s}} is no placeholder; the nearest is {{%s}}", name, nearest)
		return
	}
	c.refuse(pipe, "{{%s}} is no placeholder; there are %s", name, strings.Join(names, ", "))
}

func (c *templateCheck) refuse(node parse.Node, format string, args ...any) {
	at, _ := c.tree.ErrorContext(node) // file:line:byte
	at = at[:strings.LastIndexByte(at, ':')]
	c.errs = append(c.errs, fmt.Errorf("%s: %s", at, fmt.Sprintf(format, args...)))
}

// quoteNode is a node as it was written, on one line and cut.
func quoteNode(node parse.Node) string {
	text, runes, _ := oneLine(node.String(), 60)
	if runes > 60 {
		text += "…"
	}
	return text
}

// placeholderIn is the one name that a pipe consists of, or "".
func placeholderIn(pipe *parse.PipeNode) string {
	if len(pipe.Decl) > 0 || len(pipe.Cmds) != 1 || len(pipe.Cmds[0].Args) != 1 {
		return ""
	}
	if name, ok := pipe.Cmds[0].Args[0].(*parse.IdentifierNode); ok {
		return name.Ident
	}
	return ""
}

// fill writes the template with values in the places of their names, as one line. It reports false for a line that is longer than most, or shows nothing.
func (t template) fill(value func(placeholder string) string, most int) (string, bool) {
	text := appendList(make([]byte, 0, 512), t.root, value)
	line, runes, visible := oneLine(string(text), most)
	return line, visible && runes <= most
}

func appendList(text []byte, list *parse.ListNode, value func(placeholder string) string) []byte {
	if list == nil {
		return text
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			text = append(text, n.Text...)
		case *parse.ActionNode:
			text = append(text, value(placeholderIn(n.Pipe))...)
		case *parse.IfNode:
			if value(placeholderIn(n.Pipe)) != "" {
				text = appendList(text, n.List, value)
			} else {
				text = appendList(text, n.ElseList, value)
			}
		}
	}
	return text
}
