package main

import (
	"errors"
	"strings"

	"github.com/spendflush/spendflush/internal/access"
	"github.com/spendflush/spendflush/internal/reread"
)

// tokensSetting is the one whose file holds more than its value can, and is read again and again.
const tokensSetting = "SPENDFLUSH_TOKENS"

// fileName is the variable that names a file with the value.
func (t *setting) fileName() string { return t.name + "_FILE" }

func (t *setting) allowedFile() string {
	if t.name == tokensSetting {
		return "a file; each line: NAME ROLES TOKEN, or tokens with commas; roles: write, read, operate, with commas, or all; not with " + t.name
	}
	return "a file; not with " + t.name
}

func (t *setting) fileHelp() string {
	if t.name == tokensSetting {
		return "who may use the HTTP API, and for what; it is read again when it changes"
	}
	return "holds " + t.name + "; line ends at its end don't count"
}

// readFiles puts the values of secrets that files hold among the values. It returns the fields that
// are at fault.
func (s *settings) readFiles(values map[string]string, faults *settingsError) (refused map[string]bool) {
	refused, s.files = map[string]bool{}, map[string]string{}
	for _, t := range settingTable() {
		path, isSet := values[t.fileName()]
		if !t.secret || !isSet {
			continue
		}
		if _, both := values[t.name]; both {
			refused[t.field.Name] = true
			faults.add("%s: is set, and so is %s; allowed is one of them", t.name, t.fileName())
			continue
		}
		err := s.readSecret(&t, path, values)
		if err != nil {
			refused[t.field.Name] = true
			faults.add("%s: %v", t.fileName(), err)
			if t.name == tokensSetting {
				refused["Listen"] = true // whether it is allowed isn't known
			}
		}
	}
	return refused
}

func (s *settings) readSecret(t *setting, path string, values map[string]string) (err error) {
	s.files[t.name] = path
	if t.name == tokensSetting {
		s.keys, err = access.OpenFile(path)
		return err
	}
	values[t.name], err = readSecretFile(path)
	return err
}

// readSecretFile returns what the file holds, without line ends at its end. Errors name the file,
// and nothing that is in it.
func readSecretFile(path string) (string, error) {
	text, err := reread.Text(path)
	if err != nil {
		return "", err
	}
	value := strings.TrimRight(text, "\r\n")
	if strings.TrimSpace(value) == "" {
		return "", errors.New(path + " is empty")
	}
	return value, nil
}

// nameOf is how errors name the setting: with the file, if one holds it.
func (s *settings) nameOf(name string) string {
	if path, ok := s.files[name]; ok {
		return name + "_FILE (" + path + ")"
	}
	return name
}
