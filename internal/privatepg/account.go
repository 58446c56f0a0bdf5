package privatepg

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that the server runs as.
type account struct {
	name       string
	uid        int
	credential *syscall.Credential // nil: our own
}

// unprivileged returns our own account or, for root, one that PostgreSQL
// accepts.
func unprivileged() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: "uid " + strconv.Itoa(uid), uid: uid}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		if u, err := user.Lookup(name); err == nil {
			return accountOf(u)
		}
	}
	return account{}, errors.New(
		"PostgreSQL does not run as root, and there is no user postgres or nobody to run it as: create one, or run as another user")
}

func accountOf(u *user.User) (account, error) {
	uid, err := parseID(u.Uid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	gid, err := parseID(u.Gid)
	if err != nil {
		return account{}, fmt.Errorf("user %s: %w", u.Username, err)
	}
	credential := &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{gid}}
	// Further groups only matter where the binaries are readable for one of
	// them; a lookup that fails costs nothing else.
	groups, _ := u.GroupIds()
	for _, g := range groups {
		if id, err := parseID(g); err == nil && id != gid {
			credential.Groups = append(credential.Groups, id)
		}
	}
	return account{name: u.Username, uid: int(uid), credential: credential}, nil
}

// parseID reads a user's or group's id. macOS writes that of nobody as -2.
func parseID(s string) (uint32, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	return uint32(id), err //nolint:gosec // -2 is meant to become 4294967294
}

// own hands a file over to the account.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// command prepares a program of PostgreSQL to run as the account: in a process
// group of its own, so that a terminal's Ctrl-C reaches us and not the server;
// from a folder that everybody can enter; without PG* variables, which
// configure a server too.
func (a account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:gosec // no shell; initdb or postgres from the folder that was found
	cmd.Dir = "/"
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: a.credential}
	return cmd
}
