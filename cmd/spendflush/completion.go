package main

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/spendflush/spendflush/internal/quarantine"
)

func (p *program) completionCommand() *cobra.Command {
	shells := map[string]func(root *cobra.Command) error{
		"bash":       func(root *cobra.Command) error { return root.GenBashCompletionV2(p.stdout, true) },
		"zsh":        func(root *cobra.Command) error { return root.GenZshCompletion(p.stdout) },
		"fish":       func(root *cobra.Command) error { return root.GenFishCompletion(p.stdout, true) },
		"powershell": func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(p.stdout) },
	}
	names := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use: "completion bash|zsh|fish|powershell", Short: "Print what makes a shell complete commands, flags and ids",
		ValidArgs: names,
		Long: `Print a script that makes the shell complete commands, flags, and what stands after them; the ids of "quarantine show",
"apply" and "drop" are asked of the database that DATABASE_URL names. The one for bash needs the package bash-completion.

Exit status: 0 printed, 2 wrong usage.`,
		Example: `  source <(spendflush completion bash)                                  # this shell
  spendflush completion bash > /etc/bash_completion.d/spendflush        # all of them
  spendflush completion zsh > "${fpath[1]}/_spendflush"
  spendflush completion fish > ~/.config/fish/completions/spendflush.fish
  spendflush completion powershell | Out-String | Invoke-Expression`,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) != 1 || shells[args[0]] == nil {
				return usageError{fmt.Errorf("completion: say for which shell: %s", strings.Join(names, ", "))}
			}
			return shells[args[0]](c.Root())
		},
	}
}

// helpCommand is cobra's, except that it doesn't take a command that isn't there for success.
func helpCommand(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil {
		panic(err)
	}
	help.Short = "Show what a command does, its flags and examples"
	help.Long = `Show what a command does, its flags and examples. "--help" after a command does the same.

Exit status: 0 shown, 2 there is no such command.`
	help.Example = `  spendflush help status
  spendflush help quarantine apply`
	help.Run = nil
	help.RunE = func(c *cobra.Command, args []string) error {
		found, rest, err := c.Root().Find(args)
		if err != nil || len(rest) > 0 {
			return usageError{fmt.Errorf("help: there is no command %q", strings.Join(args, " "))}
		}
		found.InitDefaultHelpFlag()
		return found.Help()
	}
}

const (
	completeTimeout = 2 * time.Second // the user waits for it while typing
	mostCompleted   = 200
)

// completeEntries completes ids of open entries in quarantine: one, or as many as are wanted. Where
// the database can't be asked it completes nothing, without a word: the shell would print it into
// the line.
func (p *program) completeEntries(many bool) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) (found []cobra.Completion, _ cobra.ShellCompDirective) {
		const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
		set, err := load(p.environ, needDatabase)
		if err != nil || !many && len(args) > 0 {
			return nil, directive
		}
		ctx, cancel := context.WithTimeout(c.Context(), completeTimeout)
		defer cancel()
		ps, err := newParts(ctx, set, slog.New(slog.DiscardHandler), true)
		if err != nil {
			return nil, directive
		}
		defer ps.close()
		list, err := ps.reads.Quarantined(ctx, false, 0, entriesAtOnce)
		if err != nil {
			return nil, directive
		}
		for i := range list {
			q := &list[i]
			id := strconv.FormatInt(q.ID, 10)
			if strings.HasPrefix(id, begun) && !slices.Contains(args, id) && len(found) < mostCompleted {
				what := quarantine.Printable(fmt.Sprintf("%s: %s: %s", q.Kind, quarantine.Describe(q), q.Reason))
				found = append(found, cobra.CompletionWithDesc(id, what))
			}
		}
		return found, directive
	}
}
