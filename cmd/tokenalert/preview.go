package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"tokenalert/delivery"
	"tokenalert/delivery/webhook"
	"tokenalert/store"
	"tokenalert/worker"
)

// previewLanguages is in the order of the help.
var previewLanguages = []worker.Language{worker.Spanish, worker.English, worker.Portuguese}

// sample is what a preview is of.
type sample struct {
	languages  []worker.Language
	thresholds []int
	used       int64 // negative: just what reaches each threshold
	limit      int64
	name       string
	kind       worker.Kind // KindAdmin, KindBudget; "": what the user is told
	about      string      // of KindAdmin: the name of who used the tokens
}

// What a sample is of, where nobody says otherwise.
const (
	sampleLimit        = 100_000
	sampleName         = "Ana Núñez"
	sampleAbout        = "Rui Araújo"
	sampleOrganization = "Colegio Ñandú"
)

func newPreview() *cobra.Command {
	var lang string
	var threshold int
	var onlyHTML bool
	sample := sample{}
	cmd := &cobra.Command{
		Use:   "preview",
		Short: "Show the messages that users and admins would get, and check own ones",
		Long: `Show what users read when they are told: title and message, in each language, at
each threshold of TOKENALERT_THRESHOLDS. With --kind admin it is what an admin reads
of somebody else, with --kind budget of the budget of the organization. It reads the
settings as tokenalert run does, so own titles and messages (TOKENALERT_TEMPLATES) are
shown, and checked: what run would refuse to start with is an error here. Nothing is
sent, and no database is asked: to send one, there is tokenalert test-send.

With --channel email it is the e-mail, as it is where an organization has no text
of its own: subject, text and HTML. With --channel webhook it is what is posted, of
the user or the budget: what admins are told of a user is not.

The message is that of somebody who is told at noon of the 15th of this month, in
TOKENALERT_TIME_ZONE, and has used just what reaches the threshold. With --used, it
is that of the highest threshold which this reaches.

Exit status: 0 shown, 1 a setting, title or message is invalid, 2 used wrongly.`,
		Example: `  tokenalert preview
  tokenalert preview --language en --threshold 100
  tokenalert preview --used 912000 --limit 1000000 --name 'Ana Núñez'
  tokenalert preview --kind admin --about 'Rui Araújo' --language pt
  tokenalert preview --kind budget --channel webhook
  tokenalert preview --channel email --language en --threshold 90 --html > alert.html
  TOKENALERT_TEMPLATES=docs/messages tokenalert preview --output json | jq '.[].title'`,
		Args: arguments(cobra.NoArgs),
	}
	cmd.Flags().StringVar(&lang, "language", "", "es, en or pt (default all)")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "percentage of the limit, 1 to 1000 (default those of TOKENALERT_THRESHOLDS)")
	cmd.Flags().Int64Var(&sample.used, "used", -1, "tokens used in the period (default what reaches the threshold)")
	cmd.Flags().Int64Var(&sample.limit, "limit", sampleLimit, "the limit, in tokens")
	cmd.Flags().StringVar(&sample.name, "name", sampleName, "the name of who is told; it may be empty")
	kind := addChoice(cmd, "kind", "what an admin is told: of somebody else, or of the budget (default what the user is)", []string{string(worker.KindAdmin), string(worker.KindBudget)})
	cmd.Flags().StringVar(&sample.about, "about", sampleAbout, "with --kind admin: the name of who used the tokens; it may be empty")
	_ = cmd.RegisterFlagCompletionFunc("language", cobra.FixedCompletions([]string{"es", "en", "pt"}, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that is not there
	channel := addChoice(cmd, "channel", "as which channel carries it (default notification)", delivery.Names())
	cmd.Flags().BoolVar(&onlyHTML, "html", false, "with --channel email: the HTML of one message and nothing else")
	format := addOutputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		given := cmd.Flags().Changed
		switch {
		case onlyHTML && channel.value != delivery.Email:
			return usageError{errors.New("--html goes with --channel email")}
		case onlyHTML && given("output"):
			return usageError{errors.New("--html and --output are two ways to print")}
		case given("about") && kind.value != string(worker.KindAdmin):
			return usageError{errors.New("--about goes with --kind admin")}
		case kind.value == string(worker.KindAdmin) && channel.value == delivery.Webhook:
			return usageError{errors.New("--kind admin does not go with --channel webhook, which tells of the user once and of no admin")}
		}
		sample.kind = worker.Kind(kind.value)
		sample.languages = previewLanguages
		if given("language") {
			parsed, ok := worker.ParseLanguage(lang)
			if !ok {
				return usageError{fmt.Errorf("--language %q: must be one of es, en, pt", lang)}
			}
			sample.languages = []worker.Language{parsed}
		}
		if given("threshold") && (threshold < 1 || threshold > 1000) {
			return usageError{fmt.Errorf("--threshold %d: must be from 1 to 1000", threshold)}
		}
		if sample.limit < 1 || sample.limit > math.MaxInt64/1000 {
			return usageError{fmt.Errorf("--limit %d: must be from 1 to %d", sample.limit, math.MaxInt64/1000)}
		}
		s, words, err := loadWords(os.Environ())
		if err != nil {
			return err
		}
		sample.thresholds = s.Thresholds
		if given("threshold") {
			sample.thresholds = []int{threshold}
		}
		if given("used") {
			if err := sample.reached(); err != nil {
				return usageError{err}
			}
		}
		zone, err := time.LoadLocation(s.TimeZone)
		if err != nil {
			return fmt.Errorf("time zone: %w", err)
		}
		previews := sample.previews(words, time.Now().In(zone))
		sample.carry(previews, channel.value, delivery.Writer{Channels: s.channels(), Words: words, Zone: zone})
		if onlyHTML {
			if len(previews) != 1 {
				return usageError{errors.New("--html prints one message: say which by --language, and --threshold or --used")}
			}
			_, err := io.WriteString(cmd.OutOrStdout(), previews[0].Email.HTML)
			return err
		}
		if *format == outputJSON {
			return printJSON(cmd.OutOrStdout(), previews)
		}
		return printPreviews(cmd.OutOrStdout(), previews)
	}
	return cmd
}

// loadWords are the settings and the titles and messages that run begins with,
// with every error of both.
func loadWords(environ []string) (settings, *worker.Words, error) {
	s, err := loadSettings(environ)
	words, wordsErr := worker.LoadWords(s.Templates, worker.Language(s.Language))
	return s, words, errors.Join(err, wordsErr)
}

// reached leaves the threshold that somebody who has used that much is told of.
func (s *sample) reached() error {
	reached := slices.DeleteFunc(slices.Clone(s.thresholds), func(t int) bool { return s.used < usedAt(t, s.limit) })
	if len(reached) == 0 {
		return fmt.Errorf("--used %d: must be at least %d, which is %d %% of --limit %d; below it nobody is told",
			s.used, usedAt(s.thresholds[0], s.limit), s.thresholds[0], s.limit)
	}
	s.thresholds = reached[len(reached)-1:]
	return nil
}

// usedAt is the least that reaches a threshold.
func usedAt(threshold int, limit int64) int64 {
	return limit/100*int64(threshold) + (limit%100*int64(threshold)+99)/100
}

// preview is one message. The placeholders are what its texts were filled in
// with, and files those of TOKENALERT_TEMPLATES that they come from.
type preview struct {
	Language     worker.Language   `json:"language"`
	Threshold    int               `json:"threshold"`
	Kind         worker.Kind       `json:"kind"`
	Title        string            `json:"title"`
	Message      string            `json:"message"`
	Files        []string          `json:"files"`
	Placeholders map[string]string `json:"placeholders"`
	Email        *previewEmail     `json:"email,omitempty"`
	Webhook      *webhook.Event    `json:"webhook,omitempty"`

	notice worker.Notice
}

type previewEmail struct {
	Subject string `json:"subject"`
	Text    string `json:"text"`
	HTML    string `json:"html"`
}

// previews are of the month that today is in.
func (s sample) previews(words *worker.Words, today time.Time) []preview {
	var all []preview
	for _, lang := range s.languages {
		for _, threshold := range s.thresholds {
			n := s.notice(lang, threshold, today)
			values := words.Values(n)
			p := preview{
				Language: lang, Threshold: threshold, Kind: n.Kind(), Title: values["title"], Message: values["message"],
				Files: words.Files(n), Placeholders: values, notice: n,
			}
			delete(values, "title")
			delete(values, "message")
			all = append(all, p)
		}
	}
	return all
}

// notice is that of somebody who is told in the month that today is in.
func (s sample) notice(lang worker.Language, threshold int, today time.Time) worker.Notice {
	year, month, _ := today.Date()
	n := worker.Notice{
		FullName: s.name, Language: (*string)(&lang), Threshold: threshold, TokensUsed: s.used, TokenLimit: s.limit,
		PeriodStart: time.Date(year, month, 1, 0, 0, 0, 0, today.Location()),
		PeriodEnd:   time.Date(year, month+1, 1, 0, 0, 0, 0, today.Location()),
		Now:         time.Date(year, month, 15, 12, 0, 0, 0, today.Location()),
		Zone:        today.Location(),
	}
	if s.used < 0 {
		n.TokensUsed = usedAt(threshold, s.limit)
	}
	switch s.kind {
	case worker.KindAdmin:
		n.About = &s.about
	case worker.KindBudget:
		n.Budget = true
	}
	return n
}

// alertOf is the alert that would tell of n.
func alertOf(n worker.Notice) *store.ToldAlert {
	a := store.ToldAlert{
		Threshold: int32(n.Threshold), TokensUsed: n.TokensUsed, TokenLimit: n.TokenLimit, PeriodStart: n.PeriodStart, PeriodEnd: n.PeriodEnd, //nolint:gosec // 1000 at most
		CreatedAt: n.Now, FullName: n.FullName, Language: n.Language, Budget: n.Budget,
	}
	if n.Budget || n.About != nil {
		a.Admin = &store.Admin{FullName: &n.FullName, Language: n.Language}
	}
	if n.About != nil {
		a.FullName = *n.About
	}
	return &a
}

// carry adds to each preview what a channel makes of it.
func (s sample) carry(previews []preview, channel string, w delivery.Writer) {
	for i := range previews {
		p := &previews[i]
		a := alertOf(p.notice)
		switch channel {
		case delivery.Email:
			c, _ := w.Email(a, &store.Recipient{OrganizationName: sampleOrganization})
			p.Email = &previewEmail{c.Subject, c.Text, c.HTML}
		case delivery.Webhook:
			event := w.Event(a)
			p.Webhook = &event
		}
	}
}

func printPreviews(out io.Writer, previews []preview) error {
	v := newView(out)
	var b strings.Builder
	for i, p := range previews {
		if i > 0 {
			b.WriteString("\n")
		}
		from := "built in"
		if len(p.Files) > 0 {
			from = strings.Join(p.Files, ", ")
		}
		b.WriteString(v.faint.Render(fmt.Sprintf("%s, %d %%, %s (%s)", p.Language, p.Threshold, p.Kind, from)) + "\n")
		switch {
		case p.Email != nil:
			b.WriteString(v.bold.Render(p.Email.Subject) + "\n\n" + p.Email.Text + "\n" + p.Email.HTML)
		case p.Webhook != nil:
			if err := printJSON(&b, p.Webhook); err != nil {
				return err
			}
		default:
			b.WriteString(v.bold.Render(p.Title) + "\n" + p.Message + "\n")
		}
	}
	_, err := io.WriteString(out, b.String())
	return err
}
