package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestARouteKeepsWhatBelongsToAHost: of each host its ways to connect, with TLS
// before without where sslmode is prefer.
func TestARouteKeepsWhatBelongsToAHost(t *testing.T) {
	t.Parallel()
	for url, hosts := range map[string][]string{
		"postgres://a/db?sslmode=disable":                        {"a:5432"},
		"postgres://a,b:7,c/db?sslmode=disable":                  {"a:5432", "b:7", "c:5432"},
		"postgres://a,b/db?sslmode=prefer":                       {"a:5432+tls a:5432", "b:5432+tls b:5432"},
		"host=a,b port=1,2 dbname=db sslmode=require":            {"a:1+tls", "b:2+tls"},
		"postgres:///db?host=/one,/other&port=1,1&sslmode=allow": {"/one:1", "/other:1"},
	} {
		c, err := pgconn.ParseConfig(url)
		require.NoError(t, err)
		r := newRoute(c)
		told := func() []string {
			var told []string
			for _, s := range r.order() {
				var ways []string
				for _, way := range s {
					ways = append(ways, fmt.Sprintf("%s:%d%s", way.Host, way.Port, map[bool]string{true: "+tls"}[way.TLSConfig != nil]))
				}
				told = append(told, strings.Join(ways, " "))
			}
			return told
		}
		require.Equal(t, hosts, told(), url)
		for n := range hosts {
			r.leave()
			next := (n + 1) % len(hosts)
			assert.Equal(t, append(hosts[next:len(hosts):len(hosts)], hosts[:next]...), told(), url)
		}
		last := r.order()[len(hosts)-1]
		r.follow(last)
		assert.Equal(t, last, r.order()[0], url)
		r.follow(station{{Host: "a pooler", Port: 6432}})
		assert.Equal(t, last, r.order()[0], "a host that is not one of ours")

		directTo(c, r.order()...)
		assert.Equal(t, last[0].Host, c.Host, url)
		assert.Equal(t, last[0].TLSConfig, c.TLSConfig, url)
		assert.Equal(t, r.hosts[(len(hosts)-1)%len(hosts)], newRoute(c).hosts[0], url)
	}
}

// TestFilesOfAConnectionStringAreReadAgain: not the string alone, but what it
// names may have changed. Which host comes first stays.
func TestFilesOfAConnectionStringAreReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "passfile")
	write := func(password string) {
		require.NoError(t, os.WriteFile(file, []byte("*:*:*:*:"+password+"\n"), 0o600))
	}
	write("first")
	url := "postgres://ann@a,b/db?sslmode=disable&passfile=" + file
	s, err := Open(url, "")
	require.NoError(t, err)
	defer s.Close()
	s.Reread(func() (string, string, error) { return url, "", nil })
	now := func() (string, string) {
		pool, direct, err := s.current()
		require.NoError(t, err)
		assert.Equal(t, pool.config.Password, direct.config.Password)
		return direct.config.Password, direct.order()[0][0].Host
	}
	password, host := now()
	assert.Equal(t, []string{"first", "a"}, []string{password, host})
	s.leave()
	write("second")
	password, host = now()
	assert.Equal(t, []string{"second", "b"}, []string{password, host})
	url = "postgres://ann@c,d/db?sslmode=disable&passfile=" + file
	_, host = now()
	assert.Equal(t, "c", host)
}
