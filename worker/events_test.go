package worker

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite docs/events.md from the table")

const eventsPage = "../docs/events.md"

// tablesFrom is where the tables begin that are made from the code; what stands
// before is written by hand.
const tablesFrom = "<!-- From here on made from worker/events.go: go test ./worker -run TestEventsPage -update -->\n"

func TestEventsPage(t *testing.T) {
	page, err := os.ReadFile(eventsPage)
	require.NoError(t, err)
	byHand, _, found := strings.Cut(string(page), tablesFrom)
	require.True(t, found, "docs/events.md has lost the line %s", tablesFrom)
	want := byHand + tablesFrom + renderEvents()
	if *update {
		require.NoError(t, os.WriteFile(eventsPage, []byte(want), 0o644))
		return
	}
	assert.Equal(t, want, string(page), "docs/events.md is not what the table says: go test ./worker -run TestEventsPage -update")
}

func renderEvents() string {
	var b strings.Builder
	b.WriteString(`
## Events

| Event | Level | Meaning | Fields |
|---|---|---|---|
`)
	for _, e := range Events {
		levels := make([]string, len(e.Levels))
		for i, level := range e.Levels {
			levels[i] = level.String()
		}
		fields := make([]string, len(e.Fields))
		for i, field := range e.Fields {
			fields[i] = "`" + field + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", e.Name, strings.Join(levels, ", "), e.Meaning, strings.Join(fields, ", "))
	}
	b.WriteString("\n## Fields\n\n| Field | Meaning |\n|---|---|\n")
	for _, f := range EventFields {
		fmt.Fprintf(&b, "| `%s` | %s |\n", f.Name, f.Meaning)
	}
	return b.String()
}

func TestEventsTable(t *testing.T) {
	t.Parallel()
	constants := eventConstants(t)
	documented := map[EventName]bool{}
	used := map[string]bool{}
	for _, e := range Events {
		assert.False(t, documented[e.Name], "%s stands in the table twice", e.Name)
		documented[e.Name] = true
		assert.Regexp(t, `^[a-z]+\.[a-z_]+$`, e.Name)
		assert.NotEmpty(t, e.Meaning, e.Name)
		assert.NotEmpty(t, e.Levels, e.Name)
		for _, field := range e.Fields {
			used[field] = true
			assert.True(t, slices.ContainsFunc(EventFields, func(f FieldDoc) bool { return f.Name == field }), "%s: field %s is not explained", e.Name, field)
		}
	}
	for constant, name := range constants {
		assert.True(t, documented[name], "%s is not in the table", constant)
	}
	assert.Len(t, constants, len(Events))

	for _, f := range EventFields {
		assert.True(t, used[f.Name], "no event has the field %s", f.Name)
	}
	assert.True(t, slices.IsSortedFunc(EventFields, func(a, b FieldDoc) int { return strings.Compare(a.Name, b.Name) }))
}

// Every log call of the daemon goes through an event of the table, at its
// level and with its fields.
func TestLogCallsUseEvents(t *testing.T) {
	t.Parallel()
	constants := eventConstants(t)
	for _, pattern := range []string{"*.go", "../delivery/*.go", "../cmd/tokenalert/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			fset := token.NewFileSet()
			parsed, err := parser.ParseFile(fset, file, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			calls := logCalls{fset: fset, constants: constants, events: file == "events.go" || file == "log.go"}
			for _, problem := range calls.check(parsed) {
				t.Error(problem)
			}
		}
	}
}

func TestLogCallsUseEventsFinds(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, body, want string }{
		{"a good line", `log.Info("a tick is done", Event(EventTickCompleted), zap.Int64("tick", 1))`, ""},
		{"a good line of cmd", `w.log.Info("a tick is done", worker.Event(worker.EventTickCompleted))`, ""},
		{"the quieter level", `log.Debug("a tick is done", Event(EventTickCompleted))`, ""},
		{"fields from elsewhere", `log.Info("told", alertFields(Event(EventAlertSent), alert)...)`, ""},
		{"a context", `log.With(zap.String("user", id)).Error("set aside", Event(EventUserSetAside), zap.Error(err))`, ""},
		{"a function of a package", `http.Error(w, "no", 500)`, ""},
		{"an error's text", `_ = err.Error()`, ""},
		{"no event", `log.Info("a tick is done")`, "one Event"},
		{"two events", `log.Info("done", Event(EventTickCompleted), Event(EventTickFailed))`, "one Event"},
		{"an unknown event", `log.Info("done", Event(EventNobodyKnows))`, "EventNobodyKnows is no event"},
		{"an event as a string", `log.Info("done", Event("tick.done"))`, "one of the constants"},
		{"an event that was converted", `log.Info("done", Event(EventName("tick.done")))`, "one of the constants"},
		{"an event as a field", `log.Info("done", zap.String("event", "tick.done"))`, "one Event"},
		{"an event instead of a sentence", `log.Info("tick.completed", Event(EventTickCompleted))`, "sentence"},
		{"a sentence made up at run time", `log.Info(fmt.Sprint(n), Event(EventTickCompleted))`, "sentence"},
		{"another level", `log.Error("a tick is done", Event(EventTickCompleted))`, "is not written at error"},
		{"a level at run time", `log.Log(level, "a tick is done", Event(EventTickCompleted))`, "log through"},
		{"a line in two steps", `log.Check(zap.InfoLevel, "a tick is done").Write()`, "log through"},
		{"a sugared logger", `log.Sugar().Infow("a tick is done")`, "log through"},
		{"a field that is not documented", `log.Info("done", Event(EventTickCompleted), zap.String("user", id))`, `tick.completed has no field "user"`},
		{"an error that is not documented", `log.Info("done", Event(EventTickCompleted), zap.Error(err))`, `tick.completed has no field "error"`},
		{"a field of no event", `fields := []zap.Field{zap.String("email", address)}`, `no event has a field "email"`},
	}
	constants := eventConstants(t)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			source := "package p\nimport (\"net/http\"; \"go.uber.org/zap\"; \"fmt\"; \"tokenalert/worker\")\nfunc f() {\n" + test.body + "\n}\n"
			fset := token.NewFileSet()
			parsed, err := parser.ParseFile(fset, "p.go", source, parser.SkipObjectResolution)
			require.NoError(t, err)
			problems := logCalls{fset: fset, constants: constants}.check(parsed)
			if test.want == "" {
				assert.Empty(t, problems)
				return
			}
			require.NotEmpty(t, problems)
			assert.Contains(t, problems[0], test.want)
		})
	}
}

// A name in the documentation that is never written is a promise not kept.
func TestEventsAreWritten(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("../cmd/tokenalert/run.go"); err != nil {
		t.Skip("there is no run yet")
	}
	var source strings.Builder
	for _, pattern := range []string{"*.go", "../delivery/*.go", "../cmd/tokenalert/*.go"} {
		files, err := filepath.Glob(pattern)
		require.NoError(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") || file == "events.go" {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			source.Write(text)
		}
	}
	for constant := range eventConstants(t) {
		assert.Regexp(t, `\bEvent\((worker\.)?`+constant+`\)`, source.String())
	}
}

// eventConstants reads the constants of type EventName, each with its comment.
func eventConstants(t *testing.T) map[string]EventName {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), "events.go", nil, parser.ParseComments|parser.SkipObjectResolution)
	require.NoError(t, err)
	constants := map[string]EventName{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if typ, ok := spec.Type.(*ast.Ident); !ok || typ.Name != "EventName" {
			return true
		}
		name := spec.Names[0].Name
		assert.True(t, strings.HasPrefix(spec.Doc.Text(), name+" is written "), "%s: no comment says when it is written", name)
		value, ok := stringLiteral(spec.Values[0])
		require.True(t, ok, name)
		constants[name] = EventName(value)
		return true
	})
	require.NotEmpty(t, constants)
	return constants
}

// logCalls checks the log calls of one file. It knows zap by its method names,
// without type information: whatever has a method Info, say, with arguments is
// taken for a logger, unless it is a package.
type logCalls struct {
	fset      *token.FileSet
	constants map[string]EventName
	events    bool // the file that makes the fields and summaries: its fields are not checked
}

var (
	logMethods = []string{"Debug", "Info", "Warn", "Error", "DPanic", "Panic", "Fatal"}
	notThrough = regexp.MustCompile(`^(Log|Sugar|(Debug|Info|Warn|Error|DPanic|Panic|Fatal|Log)(w|f|ln))$`)
)

func (c logCalls) check(file *ast.File) []string {
	imported := map[string]bool{}
	for _, spec := range file.Imports {
		path, _ := stringLiteral(spec.Path)
		name := path[strings.LastIndex(path, "/")+1:]
		if spec.Name != nil {
			name = spec.Name.Name
		}
		imported[name] = true
	}

	var problems []string
	problem := func(at ast.Node, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("%s: ", c.fset.Position(at.Pos()))+fmt.Sprintf(format, args...))
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		selector, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		receiver, _ := selector.X.(*ast.Ident)
		switch method := selector.Sel.Name; {
		case receiver != nil && receiver.Name == "zap":
			key, ok := fieldKey(call)
			known := slices.ContainsFunc(EventFields, func(f FieldDoc) bool { return f.Name == key })
			if ok && !known && !c.events {
				problem(call, "no event has a field %q", key)
			}
		case receiver != nil && imported[receiver.Name]:
		case method == "Check" && len(call.Args) == 2 && strings.HasSuffix(lastName(call.Args[0]), "Level") && !c.events:
			problem(call, "log through Debug, Info, Warn or Error, not Check")
		case slices.Contains(logMethods, method) && len(call.Args) > 0:
			c.line(call, strings.ToLower(method), problem)
		case notThrough.MatchString(method) && !c.events:
			problem(call, "log through Debug, Info, Warn or Error, not %s", method)
		}
		return true
	})
	return problems
}

// line checks one call of a logger's method.
func (c logCalls) line(call *ast.CallExpr, level string, problem func(ast.Node, string, ...any)) {
	sentence, ok := stringLiteral(call.Args[0])
	if !ok || sentence == "" || regexp.MustCompile(`^[a-z]+\.[a-z_]+$`).MatchString(sentence) {
		problem(call, "the first argument is a sentence for people, and constant")
	}
	var events []ast.Expr
	for _, arg := range call.Args[1:] {
		ast.Inspect(arg, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && lastName(call.Fun) == "Event" && len(call.Args) == 1 {
				events = append(events, call.Args[0])
			}
			return true
		})
	}
	if len(events) != 1 {
		problem(call, "a line has one Event(…), this one has %d", len(events))
		return
	}
	constant := lastName(events[0])
	if constant == "" {
		problem(call, "an event is one of the constants")
		return
	}
	name, ok := c.constants[constant]
	if !ok {
		problem(call, "%s is no event", constant)
		return
	}
	event := Events[slices.IndexFunc(Events, func(e EventDoc) bool { return e.Name == name })]

	allowed := false
	for _, l := range event.Levels {
		allowed = allowed || l.String() == level
	}
	if !allowed {
		problem(call, "%s is not written at %s", name, level)
	}
	for _, arg := range call.Args[1:] {
		ast.Inspect(arg, func(n ast.Node) bool {
			if field, ok := n.(*ast.CallExpr); ok {
				if key, ok := fieldKey(field); ok && !slices.Contains(event.Fields, key) {
					problem(field, "%s has no field %q", name, key)
				}
			}
			return true
		})
	}
}

// fieldKey is the key of zap.String("key", …) and its like.
func fieldKey(call *ast.CallExpr) (string, bool) {
	selector, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	if receiver, ok := selector.X.(*ast.Ident); !ok || receiver.Name != "zap" {
		return "", false
	}
	if selector.Sel.Name == "Error" && len(call.Args) == 1 {
		return "error", true
	}
	if len(call.Args) < 2 {
		return "", false
	}
	return stringLiteral(call.Args[0])
}

// lastName is the name in an identifier, or after a package's; "" for anything else.
func lastName(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	default:
		return ""
	}
}

func stringLiteral(expr ast.Expr) (string, bool) {
	literal, ok := expr.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil
}
