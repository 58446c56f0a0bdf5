package main

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// notify rings for each row with pg_notify; a worker sums the user's month and
// writes the alerts. What is rung while no worker listens is gone.
type notify struct{}

func (notify) install(ctx context.Context, db *database) error {
	return db.tellable(ctx, "notify")
}

func (notify) worker(db *database) *exec.Cmd { return ourWorker("notify", db.hostURL()) }
func (notify) ready() string                 { return weWork }

// question begins the payload of a notification that asks whether everything
// that was rung before it is done.
const question = "?"

var questions atomic.Int64

// drained asks the worker. Notifications arrive in the order of the commits
// (PostgreSQL manual, NOTIFY), so its answer is about all before.
func (notify) drained(ctx context.Context, db *database) (bool, error) {
	n := questions.Add(1)
	if _, err := db.control.Exec(ctx, "SELECT pg_notify('usage', $1)", question+strconv.FormatInt(n, 10)); err != nil {
		return false, err
	}
	err := db.await(ctx, drainWithin, func() (bool, error) {
		var answered int64
		err := db.control.QueryRow(ctx, "SELECT question FROM notify_answer").Scan(&answered)
		return answered >= n, err
	})
	return err == nil, err
}

// sumMonth counts each of some users, as the host's trigger does.
const sumMonth = `
	WITH totals AS (
		SELECT user_id, date_trunc('month', now(), 'UTC') AS period_start, sum(tokens_used) AS tokens_used
		FROM ai_usage_logs WHERE user_id = ANY ($1::uuid[]) AND created_at >= date_trunc('month', now(), 'UTC') GROUP BY 1
	), ` + tellCrossings + `
	SELECT count(*) FROM told`

// tellCrossings goes on from totals (user_id, period_start, tokens_used): alert
// rows that are not there yet, each with a notification, which told counts.
const tellCrossings = `
	alerts AS (
		INSERT INTO token_limit_alerts (user_id, organization_id, period_start, alert_threshold, token_limit, tokens_used)
		SELECT u.id, u.organization_id, t.period_start, threshold, u.monthly_token_limit, t.tokens_used
		FROM totals t JOIN users u ON u.id = t.user_id, unnest('{80,90,100}'::integer[]) AS threshold
		WHERE u.monthly_token_limit > 0 AND t.tokens_used * 100 >= threshold * u.monthly_token_limit::bigint
		ON CONFLICT DO NOTHING
		RETURNING user_id, organization_id, alert_threshold, token_limit, tokens_used
	), told AS (
		INSERT INTO notifications (user_id, organization_id, title, message, link_url, notification_type)
		SELECT a.user_id, a.organization_id, a.alert_threshold || ' % of your AI tokens are used',
		       format('Hello %s, you have used %s of %s tokens.', u.full_name, a.tokens_used, a.token_limit),
		       '/admin/token-usage', 'token_limit_alert'
		FROM alerts a JOIN users u ON u.id = a.user_id
		RETURNING 1
	)`

// runNotify listens on one connection and sums on another. A user who is rung
// for again before the turn comes is summed once.
func runNotify(ctx context.Context, url string) error {
	ears, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = ears.Close(context.WithoutCancel(ctx)) }()
	hands, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = hands.Close(context.WithoutCancel(ctx)) }()
	if _, err := ears.Exec(ctx, "LISTEN usage"); err != nil {
		return err
	}
	fmt.Println(weWork)
	rung := make(chan string, 100_000) // full: the rest waits in the connection
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			n, err := ears.WaitForNotification(ctx)
			if err != nil {
				return err
			}
			select {
			case rung <- n.Payload:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case payload := <-rung:
				if err := sumAll(ctx, hands, payload, rung); err != nil {
					return err
				}
			}
		}
	})
	return group.Wait()
}

// sumAll takes what has been rung by now, each user once.
func sumAll(ctx context.Context, conn *pgx.Conn, first string, rung <-chan string) error {
	taken := map[string]bool{first: true}
	for range len(rung) {
		taken[<-rung] = true
	}
	var users []string
	var answer string
	for payload := range taken {
		if strings.HasPrefix(payload, question) {
			if len(payload) > len(answer) || len(payload) == len(answer) && payload > answer {
				answer = payload
			}
			continue
		}
		users = append(users, payload)
	}
	if len(users) > 0 {
		if _, err := conn.Exec(ctx, sumMonth, users); err != nil {
			return err
		}
	}
	if answer == "" {
		return nil
	}
	_, err := conn.Exec(ctx, "UPDATE notify_answer SET question = $1::bigint", strings.TrimPrefix(answer, question))
	return err
}

// sleep fails where ctx ends before.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
