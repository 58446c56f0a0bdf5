package email

import (
	"html"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// someFacts are those of an alert in Spanish.
func someFacts() Facts {
	return Facts{
		ID: "0d4b1c6e-5f0a-5b53-9d0e-3a1c7f5b2a11", To: "ana.nunez@example.org",
		RecipientName: "Ana Núñez", OrganizationName: "Café & Señales",
		Title: "📊 80% de tokens de IA utilizados",
		Body:  "Hola, Ana Núñez: has usado 82.300 tokens de IA en este período, el 82,3% de tu límite de 100.000.",
		Link:  "https://platform.example/admin/token-usage?a=1&b=2", Language: "es",
		Values: map[string]string{"threshold": "80", "tokens_used": "82.300", "token_limit": "100.000", "percent": "82,3%", "reset_date": "1 de diciembre de 2026"},
	}
}

func TestComposeStandard(t *testing.T) {
	t.Parallel()
	for language, word := range map[string]string{"es": "Ver el uso", "en": "See usage", "pt": "Ver o uso", "": "Ver el uso", "fr": "Ver el uso"} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			f := someFacts()
			f.Language = language
			c, unknown := Compose(f, nil)
			require.Empty(t, unknown)
			require.Equal(t, f.ID, c.ID)
			require.Equal(t, f.To, c.To)
			require.Equal(t, f.RecipientName, c.ToName)
			require.Equal(t, f.Title, c.Subject)
			require.Equal(t, f.Body+"\n\n"+word+": "+f.Link+"\n\n"+f.OrganizationName+"\n", c.Text)

			shown := language
			if word == "Ver el uso" {
				shown = "es"
			}
			require.Equal(t, shown, c.Language)
			require.Contains(t, c.HTML, `<html lang="`+shown+`"`)
			require.Contains(t, c.HTML, `>`+html.EscapeString(f.Body)+`</p>`)
			require.Contains(t, c.HTML, `<a href="https://platform.example/admin/token-usage?a=1&amp;b=2"`)
			require.Contains(t, c.HTML, `>`+word+`</a>`)
			require.Contains(t, c.HTML, `Café &amp; Señales`)
			require.NotContains(t, c.HTML, "{{")
			require.NotContains(t, c.HTML, "<table")
			require.NotContains(t, c.HTML, "<img", "nothing is loaded from anywhere")
		})
	}
}

func TestComposeLeavesOut(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"", "/admin/token-usage", "javascript:alert(1)", "data:text/html,x", "https://", "ftp://platform.example/", "//platform.example/", "https://ana:pw@platform.example/", "https://platform.example/\x00"} {
		f := someFacts()
		f.Link, f.OrganizationName = link, " \u202e "
		c, _ := Compose(f, &Template{Subject: "{{link}}|{{organization_name}}|"})
		require.Equal(t, "||", c.Subject, link)
		require.Equal(t, f.Body+"\n", c.Text, link)
		require.NotContains(t, c.HTML, "href", link)
		require.NotContains(t, c.HTML, "<bdi>", link)
	}
}

func TestComposeFromTemplate(t *testing.T) {
	t.Parallel()
	f := someFacts()
	f.RecipientName = `Zoë "<b>" & {{link}}`
	standard, _ := Compose(f, nil)
	tests := map[string]struct {
		own                 Template
		subject, text, html string
		unknown             []string
	}{
		"plain": {
			Template{Subject: "{{organization_name}}: {{ percent }}", Body: "Hi {{recipient_name}},\r\n{{tokens_used}} of {{ token_limit }}, until {{\treset_date }}.\n{{link}}"},
			"Café & Señales: 82,3%", "Hi Zoë \"<b>\" & {{link}},\n82.300 of 100.000, until 1 de diciembre de 2026.\n" + f.Link, "", nil,
		},
		"HTML is escaped, the subject is not": {
			Template{Subject: "{{recipient_name}}", Body: `<p title="{{recipient_name}}">{{organization_name}}</p><a href="{{link}}">{{link_text}}</a>`, HTML: true},
			`Zoë "<b>" & {{link}}`, standard.Text,
			`<p title="Zoë &#34;&lt;b&gt;&#34; &amp; {{link}}">Café &amp; Señales</p><a href="https://platform.example/admin/token-usage?a=1&amp;b=2">Ver el uso</a>`, nil,
		},
		"unknown": {
			Template{Subject: "a{{nobody}}b{{ recipient name }}", Body: "c{{nobody}}d{{}}e{{Threshold}}f{{threshold}}"},
			"ab", "cdef80", "",
			[]string{"", "Threshold", "nobody", "recipient name"},
		},
		"not placeholders": {
			Template{Subject: "{{title", Body: "{title} }}{{ {{title\n}} {{{threshold}}} {{" + strings.Repeat("x", 81) + "}} .a{b{color:red}}"},
			"{{title", "{title} }}{{ {{title\n}} {80} {{" + strings.Repeat("x", 81) + "}} .a{b{color:red}}", "", nil,
		},
		"blank": {
			Template{Subject: " {{nobody}} ", Body: "\r\n{{nobody}}\x00 "},
			standard.Subject, standard.Text, standard.HTML,
			[]string{"nobody"},
		},
		"too long": {
			Template{Subject: strings.Repeat("x", maxTemplate+1), Body: strings.Repeat("x", maxTemplate+1)},
			standard.Subject, standard.Text, standard.HTML, nil,
		},
		"too many placeholders": {
			Template{Subject: "a", Body: strings.Repeat("{{message}}", maxPlaceholders+1)},
			"a", standard.Text, standard.HTML, nil,
		},
		"controls": {
			Template{Subject: "a\r\nBcc: x@example.com\n\x00\u2028b\u202e", Body: "a\x00\x1b[31m\rb\r\n.\nc\td"},
			"a Bcc: x@example.com b", "a[31m\nb\n.\nc\td", "", nil,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, unknown := Compose(f, &test.own)
			assert.Equal(t, test.subject, c.Subject)
			assert.Equal(t, test.text, c.Text)
			assert.Equal(t, test.html, c.HTML)
			assert.Equal(t, test.unknown, unknown)
		})
	}
}

func TestOneLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"":                              "",
		" a \t b\r\n\u2029c ":           "a b c",
		"a\xffb":                        "a\ufffdb",
		"נועה כהן":                      "נועה כהן",
		"\u202eevil\u2066":              "evil",
		"👩\u200d💻 Ana":                  "👩\u200d💻 Ana",
		strings.Repeat("é", 10):         strings.Repeat("é", 10),
		strings.Repeat("é", 11):         strings.Repeat("é", 9) + "…",
		strings.Repeat("é", 8) + " xyz": strings.Repeat("é", 8) + "…",
	} {
		assert.Equal(t, want, oneLine(in, 10), "%q", in)
	}
}

// Whatever the template and the values are: what is not a placeholder stays as
// it is, values come out whole and escaped, and no value is read as a template.
func FuzzFill(f *testing.F) {
	for _, text := range []string{"", "{{a}}", "{{ a }}", "{{b}}", "x{{a}}y{{a}}z", "{{{a}}}", "{{a", "a}}", "{{}}", "{{ }}", "{{\r\na}}", "{{a}}{{b}}{{no}}", "{{no}}{{a}}{{no}}", "{ {a}}", "\xff{{a}}\xff", "{{a\xff}}", "{{{{a}}}}", "<p>{{a}}</p>", "{{\u00a0a}}"} {
		for _, value := range []string{"", "v", "{{b}}", "{{", "}}", "<script>", "\"'&<>", "\r\nBcc: x@example.com", "\xff", "$1${0}"} {
			f.Add(text, value)
		}
	}
	f.Fuzz(func(t *testing.T, text, value string) {
		values := map[string]string{"a": value, "b": "B"}
		filled, unknown := fill(text, values, html.EscapeString)

		// Filled again by other means: between the places that the pattern finds.
		var want strings.Builder
		missing, end := map[string]bool{}, 0
		for _, at := range placeholder.FindAllStringSubmatchIndex(text, -1) {
			want.WriteString(text[end:at[0]])
			end = at[1]
			switch name := text[at[2]:at[3]]; name {
			case "a":
				want.WriteString(html.EscapeString(value))
			case "b":
				want.WriteString("B")
			default:
				missing[oneLine(name, maxName)] = true
			}
		}
		require.Equal(t, want.String()+text[end:], filled)
		require.Len(t, unknown, len(missing))
		for _, name := range unknown {
			require.True(t, missing[name], name)
		}

		facts := Facts{ID: "1", To: "ana@example.org", Title: value, Body: value, RecipientName: value, OrganizationName: value, Link: value, Language: value}
		for _, own := range []*Template{nil, {Subject: text, Body: text}, {Subject: value, Body: value, HTML: true}} {
			c, _ := Compose(facts, own)
			require.LessOrEqual(t, utf8.RuneCountInString(c.Subject), maxSubject)
			require.False(t, strings.ContainsAny(c.Subject+c.ToName, "\r\n\x00\u2028\u2029\u202e"))
			require.False(t, strings.ContainsAny(c.Text+c.HTML, "\r\x00"))
			require.True(t, utf8.ValidString(c.Subject+c.ToName+c.Text+c.HTML))
			if own == nil {
				require.Equal(t, strings.Count(pageStart+pageEnd, "<")+tags(c), strings.Count(c.HTML, "<"), "a value made a tag of\n%s", c.HTML)
			}
		}
	})
}

// tags counts those of the pieces of the standard page that c has.
func tags(c Content) int {
	n := 0
	for _, piece := range []string{pageButton, pageOrganization} {
		if strings.Contains(c.HTML, piece[:strings.Index(piece, "{{")]) {
			n += strings.Count(piece, "<")
		}
	}
	return n
}
