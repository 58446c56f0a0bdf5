package delivery

import (
	"cmp"
	"net/url"
	"strings"
	"time"

	"tokenalert/delivery/email"
	"tokenalert/delivery/webhook"
	"tokenalert/store"
	"tokenalert/worker"
)

// A Writer writes an alert as each channel carries it. All that a message says
// stands in the alert's row, so that it says the same whenever and wherever it is
// written.
type Writer struct {
	Channels Channels // for where a message leads
	Words    *worker.Words
	Zone     *time.Location // whose dates messages are written in
	// Test marks what is written as a test.
	Test bool
}

// Notification is an alert as the host's page shows it, with the id of the
// notification in the alert's own database.
func (w Writer) Notification(a *store.ToldAlert) store.Notification {
	title, message, _ := w.texts(w.notice(a))
	n := store.Notification{
		ID: a.NotificationID, OrganizationID: a.OrganizationID, UserID: a.UserID, Title: title, Message: message, Link: w.Channels.Link,
	}
	if a.Admin != nil {
		n.ID, n.UserID = worker.AdminNotificationID(a.NotificationID, a.Admin.UserID), a.Admin.UserID
	}
	return n
}

// Email is an alert as an e-mail, and the names of placeholders in the
// organization's template that nothing is known for.
func (w Writer) Email(a *store.ToldAlert, r *store.Recipient) (email.Content, []string) {
	n := w.notice(a)
	title, message, values := w.texts(n)
	var own *email.Template
	if t := r.Template; t != nil {
		own = &email.Template{Subject: t.Subject, Body: t.Body, HTML: t.HTML}
	}
	return email.Compose(email.Facts{
		ID: messageID(a), To: r.Email, Language: string(w.Words.LanguageOf(n)), RecipientName: n.FullName, OrganizationName: r.OrganizationName,
		Title: title, Body: message, Link: w.Channels.link(), Values: values,
	}, own)
}

// Event is an alert as a webhook posts it. That of a budget names no user.
func (w Writer) Event(a *store.ToldAlert) webhook.Event {
	n := w.notice(a)
	n.FullName = "" // a name leaves the site by e-mail alone
	title, message, _ := w.texts(n)
	alert := webhook.Alert{
		AlertID: a.ID, OrganizationID: a.OrganizationID, Threshold: a.Threshold, TokensUsed: a.TokensUsed, TokenLimit: a.TokenLimit,
		PercentUsed: webhook.Tenths(worker.PercentTenths(a.TokensUsed, a.TokenLimit)), PeriodStart: a.PeriodStart, PeriodEnd: a.PeriodEnd,
		Title: title, Message: message, Link: cmp.Or(w.Channels.link(), w.Channels.Link), Language: string(w.Words.LanguageOf(n)),
	}
	if a.Budget {
		return webhook.NewBudgetEvent(a.CreatedAt, alert)
	}
	alert.UserID = &a.UserID
	if w.Test {
		return webhook.NewTest(a.CreatedAt, alert)
	}
	return webhook.NewEvent(a.CreatedAt, alert)
}

func (w Writer) notice(a *store.ToldAlert) worker.Notice {
	n := worker.Notice{
		FullName: a.FullName, Budget: a.Budget, Language: a.Language, OrganizationLanguage: a.OrganizationLanguage, Threshold: int(a.Threshold), TokensUsed: a.TokensUsed, TokenLimit: a.TokenLimit,
		PeriodStart: a.PeriodStart, PeriodEnd: a.PeriodEnd, Now: a.CreatedAt, Zone: w.Zone,
	}
	if a.Admin != nil {
		n.FullName, n.Language = "", a.Admin.Language
		if !a.Budget {
			n.About = &a.FullName
		}
		if a.Admin.FullName != nil {
			n.FullName = *a.Admin.FullName
		}
	}
	return n
}

// texts are the title and the message, and the values of further placeholders.
func (w Writer) texts(n worker.Notice) (title, message string, values map[string]string) {
	values = w.Words.Values(n)
	title, message = values["title"], values["message"]
	if w.Test {
		says := testTexts[w.Words.LanguageOf(n)]
		title, message = cut(says.title+title, maxTitle), says.message+" "+message
	}
	return title, message, values
}

// maxTitle is what notifications.title holds, in characters.
const maxTitle = 255

func cut(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// testTexts are what a test says before what it would say.
var testTexts = map[worker.Language]struct{ title, message string }{
	worker.Spanish:    {"[Prueba] ", "Esto es una prueba: nadie ha llegado a ningún límite."},
	worker.English:    {"[Test] ", "This is a test: nobody has reached any limit."},
	worker.Portuguese: {"[Teste] ", "Isto é um teste: ninguém atingiu nenhum limite."},
}

// link is where a message leads that is read outside of the site; empty where
// that is not known.
func (c Channels) link() string {
	if isAbsolute(c.Link) {
		return c.Link
	}
	return joined(c.SiteURL, c.Link)
}

func isAbsolute(link string) bool {
	u, err := url.Parse(link)
	return err == nil && u.IsAbs()
}

// joined is path on site, empty where there is no site.
func joined(site, path string) string {
	if site == "" {
		return ""
	}
	return strings.TrimSuffix(site, "/") + "/" + strings.TrimPrefix(path, "/")
}
