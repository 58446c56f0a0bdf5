package email

import (
	"html"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// Facts are what an e-mail says. Title and Body are in the user's language and
// plain text.
type Facts struct {
	ID               string // of the alert
	To               string // the user's address
	RecipientName    string
	OrganizationName string
	Title, Body      string
	Link             string // absolute, http or https; anything else is left out
	Language         string // es, en or pt; any other is taken for es
	// Values are further placeholders of a template: threshold, tokens_used,
	// token_limit, percent, reset_date.
	Values map[string]string
}

// Template is an organization's own text. Its placeholders are listed in
// docs/email.md.
type Template struct {
	Subject, Body string
	HTML          bool // whether Body is HTML
}

// Content is a message, but for who it is from. HTML or Text may be empty.
type Content struct {
	// ID is the alert's. The Message-ID is made of it and of nothing that
	// changes from one attempt to the next.
	ID         string
	To, ToName string
	Subject    string
	Text, HTML string
	Language   string
}

// maxSubject is in runes.
const maxSubject = 200

// linkTexts are the words on the button, by language.
var linkTexts = map[string]string{"es": "Ver el uso", "en": "See usage", "pt": "Ver o uso"}

// The standard e-mail as HTML. Colours are the mail program's, for the light
// and for the dark; only the button has its own, white on a blue that is dark
// enough to be read (contrast 6.7 : 1). Some programs drop the html element, so
// the language stands twice.
const (
	pageStart = `<!doctype html>
<html lang="{{language}}" style="color-scheme: light dark">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"><title>{{title}}</title></head>
<body style="margin: 0; padding: 24px; font: 16px/1.5 system-ui, sans-serif">
<div lang="{{language}}" style="max-width: 36em; margin: 0 auto">
<h1 style="font-size: 20px; line-height: 1.3; margin: 0 0 16px">{{title}}</h1>
<p style="margin: 0 0 24px">{{message}}</p>
`
	pageButton = `<p style="margin: 0 0 24px"><a href="{{link}}" style="display: inline-block; padding: 12px 20px; border-radius: 6px; background: #1d4ed8; color: #ffffff; font-weight: 600; text-decoration: none">{{link_text}}</a></p>
`
	pageOrganization = `<p style="margin: 0; font-size: 14px"><bdi>{{organization_name}}</bdi></p>
`
	pageEnd = `</div>
</body>
</html>
`
)

// Compose writes what f says, as own has it or else in the standard form. It
// also returns the names of placeholders in own that nothing is known for. A
// subject or body of own that comes out blank, or is too long, is replaced by the
// standard one.
func Compose(f Facts, own *Template) (Content, []string) {
	if linkTexts[f.Language] == "" {
		f.Language = "es"
	}
	if !absolute(f.Link) {
		f.Link = ""
	}
	f.RecipientName = oneLine(f.RecipientName, maxName)
	f.OrganizationName = oneLine(f.OrganizationName, maxName)
	values := maps.Clone(f.Values)
	if values == nil {
		values = map[string]string{}
	}
	maps.Copy(values, map[string]string{
		"recipient_name": f.RecipientName, "organization_name": f.OrganizationName,
		"title": f.Title, "message": f.Body,
		"link": f.Link, "link_text": linkTexts[f.Language], "language": f.Language,
	})

	c := Content{
		ID: f.ID, To: f.To, ToName: f.RecipientName, Language: f.Language,
		Subject: oneLine(f.Title, maxSubject), Text: standardText(f), HTML: standardHTML(f, values),
	}
	if own == nil {
		return c, nil
	}
	subject, unknown := fill(withinBounds(own.Subject), values, asIs)
	if subject = oneLine(subject, maxSubject); subject != "" {
		c.Subject = subject
	}
	escape := asIs
	if own.HTML {
		escape = html.EscapeString
	}
	body, missing := fill(withinBounds(own.Body), values, escape)
	if body = lines(body); strings.TrimSpace(body) != "" {
		// Beside the organization's HTML stands our own text, for who reads no HTML.
		if own.HTML {
			c.HTML = body
		} else {
			c.Text, c.HTML = body, ""
		}
	}
	unknown = append(unknown, missing...)
	slices.Sort(unknown)
	return c, slices.Compact(unknown)
}

// Bounds of an organization's template: many are filled at a time, by the process that
// counts.
const (
	maxTemplate     = 100_000 // octets
	maxPlaceholders = 200
)

// withinBounds is a template, or none where it is too long.
func withinBounds(text string) string {
	if len(text) > maxTemplate || strings.Count(text, "{{") > maxPlaceholders {
		return ""
	}
	return text
}

func standardText(f Facts) string {
	text := f.Body + "\n"
	if f.Link != "" {
		text += "\n" + linkTexts[f.Language] + ": " + f.Link + "\n"
	}
	if f.OrganizationName != "" {
		text += "\n" + f.OrganizationName + "\n"
	}
	return lines(text)
}

func standardHTML(f Facts, values map[string]string) string {
	page := pageStart
	if f.Link != "" {
		page += pageButton
	}
	if f.OrganizationName != "" {
		page += pageOrganization
	}
	filled, _ := fill(page+pageEnd, values, html.EscapeString)
	return lines(filled)
}

func asIs(s string) string { return s }

// absolute keeps a link that begins with javascript: or data: from becoming a
// button, whoever wrote it.
func absolute(link string) bool {
	u, err := url.Parse(link)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil
}
