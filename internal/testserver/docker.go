package testserver

import (
	"context"
	"errors"
)

func dockerAnswers(context.Context) error { return errors.New("containers are not supported yet") }

func dockerPostgres(context.Context) (string, func(context.Context) error, error) {
	return "", nil, errors.New("containers are not supported yet")
}

func dockerRedis(context.Context) (string, func(context.Context) error, error) {
	return "", nil, errors.New("containers are not supported yet")
}
