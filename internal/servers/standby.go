package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// copyPrimary fills aside with the data of the running server at the URL, as of a standby that
// follows it, and keeps that server's password, which is that of the copy too.
func copyPrimary(ctx context.Context, bin, primary, dir, aside, data string, run *account) (string, error) {
	config, err := pgx.ParseConfig(primary)
	if err != nil {
		return "", fmt.Errorf("primary: %w", err)
	}
	if err := writeFile(passwordFile(dir), config.Password+"\n", nil); err != nil {
		return "", err
	}
	if err := os.Mkdir(aside, 0o700); err != nil {
		return "", err
	}
	if err := run.own(aside); err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(bin, "pg_basebackup"), "--pgdata="+aside, "--dbname="+primary,
		"--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--no-password")
	cmd.Dir = filepath.Dir(data)
	run.apply(cmd)
	if err := runToEnd(ctx, cmd); err != nil {
		return "", fmt.Errorf("copy the primary: %w", err)
	}
	return config.Password, os.Rename(aside, data)
}

// Promote makes a standby a primary and returns when it takes writes.
func (p *Postgres) Promote(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, p.URL(""))
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var promoted bool
	if err := conn.QueryRow(ctx, "SELECT pg_promote(true, 60)").Scan(&promoted); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if !promoted {
		return errors.New("promote: the standby is still one after a minute")
	}
	return nil
}

// Follow makes the server a standby of the primary at the URL: it is stopped, if it runs, and
// started again on the same port. It must have nothing that the primary lacks, as after a clean
// stop that the primary has followed to its end. It returns when the server answers, which it does
// as a standby.
func (p *Postgres) Follow(ctx context.Context, primary string) error {
	stopped := p.current()
	if err := stopped.signal(p.stopSignal); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	select {
	case <-stopped.done:
	case <-ctx.Done():
		return fmt.Errorf("follow: %w", ctx.Err())
	}
	run, err := unprivileged()
	if err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	if err := writeFile(filepath.Join(data, "standby.signal"), "", run); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	config, err := pgconn.ParseConfig(primary)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	auto := filepath.Join(data, "postgresql.auto.conf")
	content, err := os.ReadFile(auto)
	if err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	info := fmt.Sprintf("host=%s port=%d user=%s password=%s sslmode=disable", config.Host, config.Port, config.User, config.Password)
	line := fmt.Sprintf("primary_conninfo = '%s'\n", strings.ReplaceAll(info, "'", "''"))
	if err := writeFile(auto, string(content)+line, run); err != nil { // a later line wins
		return fmt.Errorf("follow: %w", err)
	}
	if err := p.Restart(ctx); err != nil {
		return fmt.Errorf("follow: %w", err)
	}
	return nil
}

// Freeze stops all processes of the server by SIGSTOP: connections stay open, new ones are taken by
// the system, and nothing is answered until Thaw.
func (p *Postgres) Freeze() error {
	if err := p.Pause(); err != nil { // first, so that it starts no more of them
		return err
	}
	return p.current().signalChildren(syscall.SIGSTOP)
}

// Thaw ends a Freeze.
func (p *Postgres) Thaw() error {
	return errors.Join(p.current().signalChildren(syscall.SIGCONT), p.Resume())
}

func (p *process) signalChildren(sig syscall.Signal) error {
	pids, err := children(p.pid())
	if err != nil {
		return err
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // it may have ended
	}
	return nil
}
