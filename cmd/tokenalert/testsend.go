package main

import (
	"context"
	"fmt"
	"io"
	"net/mail"
	"os"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"tokenalert/delivery"
	"tokenalert/store"
	"tokenalert/worker"
)

// trial is what test-send did.
type trial struct {
	Channel    string    `json:"channel"`
	To         string    `json:"to"`
	ID         uuid.UUID `json:"id"`
	Title      string    `json:"title"`
	DurationMS int64     `json:"duration_ms"`
}

// testFlags are what was typed.
type testFlags struct {
	channel, language  *choice
	to                 string
	user, organization string
	threshold          int
}

func newTestSend() *cobra.Command {
	f := testFlags{}
	cmd := &cobra.Command{
		Use:   "test-send --channel CHANNEL",
		Short: "Send one message by a channel, to see whether it arrives",
		Long: `Send one sample message, as tokenalert preview shows it, by a channel of the
settings, once, and say what became of it and how long it took. Its title and text
say that it is a test. No alert is written, and only for a notification is a
database asked, the other one; nothing is sent again by itself.

  email         to the address in --to, by the server in TOKENALERT_SMTP_URL. Those
                of organizations are for their users alone
  webhook       an event of the type token_limit.test
  notification  into the database in TOKENALERT_NOTIFICATIONS_URL, for a user and
                an organization: the user sees it until somebody deletes it

Exit status: 0 handed over, 1 not, or a setting is invalid, 2 used wrongly.`,
		Example: `  tokenalert test-send --channel email --to ana@example.com
  tokenalert test-send --channel webhook --threshold 100 --language en
  tokenalert test-send --channel notification --user 4f6c… --organization 9b1d…`,
		Args: arguments(cobra.NoArgs),
	}
	f.channel = addChoice(cmd, "channel", "how to send it", delivery.Names())
	cmd.Flags().StringVar(&f.to, "to", "", "with --channel email: the address")
	cmd.Flags().StringVar(&f.user, "user", "", "whom it is about (id); a notification needs one")
	cmd.Flags().StringVar(&f.organization, "organization", "", "the user's organization (id); a notification needs one")
	f.language = addChoice(cmd, "language", "what it is written in (default TOKENALERT_LANGUAGE)", []string{"es", "en", "pt"})
	cmd.Flags().IntVar(&f.threshold, "threshold", 0, "percentage of the limit, 1 to 1000 (default the first of TOKENALERT_THRESHOLDS)")
	format := addOutputFlag(cmd)
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := f.fault(cmd.Flags().Changed); err != nil {
			return usageError{fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath())}
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, words, err := loadWords(os.Environ())
		if err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd.Context())
		defer stop()
		tried, err := f.send(ctx, s, words)
		if err != nil {
			return err
		}
		if *format == outputJSON {
			return printJSON(cmd.OutOrStdout(), tried)
		}
		return printTrial(cmd.OutOrStdout(), tried)
	}
	return cmd
}

// fault is what was typed wrongly.
func (f testFlags) fault(given func(flag string) bool) error {
	switch {
	case f.channel.value == "":
		return fmt.Errorf("say --channel email, webhook or notification")
	case f.channel.value == delivery.Email && f.to == "":
		return fmt.Errorf("--channel email needs --to, an e-mail address")
	case f.channel.value != delivery.Email && given("to"):
		return fmt.Errorf("--to goes with --channel email")
	case f.channel.value == delivery.Email && (given("user") || given("organization")):
		return fmt.Errorf("--user and --organization do not go with --channel email, which writes to --to")
	case f.channel.value == delivery.Notification && (f.user == "" || f.organization == ""):
		return fmt.Errorf("--channel notification needs --user and --organization, which are columns of it")
	case given("threshold") && (f.threshold < 1 || f.threshold > 1000):
		return fmt.Errorf("--threshold %d: must be from 1 to 1000", f.threshold)
	}
	if f.to != "" {
		if _, err := mail.ParseAddress(f.to); err != nil {
			return fmt.Errorf("--to is not an e-mail address")
		}
	}
	for _, id := range []struct{ flag, value string }{{"user", f.user}, {"organization", f.organization}} {
		if _, err := uuid.Parse(id.value); id.value != "" && err != nil {
			return fmt.Errorf("--%s %q is not an id (a UUID)", id.flag, id.value)
		}
	}
	return nil
}

func (f testFlags) send(ctx context.Context, s settings, words *worker.Words) (trial, error) {
	zone, err := time.LoadLocation(s.TimeZone)
	if err != nil {
		return trial{}, fmt.Errorf("time zone: %w", err)
	}
	sample := sample{used: -1, limit: sampleLimit, name: sampleName}
	lang, threshold := worker.Language(s.Language), s.Thresholds[0]
	if f.language.value != "" {
		lang = worker.Language(f.language.value)
	}
	if f.threshold != 0 {
		threshold = f.threshold
	}
	a := alertOf(sample.notice(lang, threshold, time.Now().In(zone)))
	// Ids of its own, so that who keeps those that came takes a second test.
	a.ID, a.NotificationID = uuid.New(), uuid.New()
	a.UserID, _ = uuid.Parse(f.user) // as fault has seen; the nil one where there is none
	a.OrganizationID, _ = uuid.Parse(f.organization)

	w := delivery.Writer{Channels: s.channels(), Words: words, Zone: zone, Test: true}
	began := time.Now()
	a.CreatedAt = began
	var tried delivery.Trial
	id := a.ID
	switch f.channel.value {
	case delivery.Email:
		tried, err = w.TryEmail(ctx, a, &store.Recipient{Email: f.to})
	case delivery.Webhook:
		tried, err = w.TryWebhook(ctx, a)
	case delivery.Notification:
		id = a.NotificationID
		tried, err = w.TryNotification(ctx, a)
	}
	took := time.Since(began)
	if err != nil {
		if tried.To == "" { // it was not tried
			return trial{}, fmt.Errorf("not sent by %s: %w", f.channel.value, err)
		}
		advice := delivery.Advice(err)
		if advice != "" {
			advice = "\n" + advice
		}
		return trial{}, fmt.Errorf("not sent by %s to %s, after %s: %w%s", f.channel.value, tried.To, milliseconds(took), err, advice)
	}
	return trial{f.channel.value, tried.To, id, tried.Title, took.Milliseconds()}, nil
}

func printTrial(w io.Writer, t trial) error {
	after := ""
	switch t.Channel {
	case delivery.Email:
		after = "The server has taken it. Whether it is in the mailbox, or among the spam, only the mailbox shows.\n"
	case delivery.Webhook:
		after = "The receiver has answered that it took it.\n"
	}
	_, err := fmt.Fprintf(w, "sent by %s to %s in %s: %s\nid %s\n%s", t.Channel, plain(t.To), milliseconds(time.Duration(t.DurationMS)*time.Millisecond), plain(t.Title), t.ID, after)
	return err
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
