{{/* The name of all that belongs to a release. */}}
{{- define "spendflush.name" -}}
{{- if contains "spendflush" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-spendflush" (.Release.Name | trunc 29 | trimSuffix "-") -}}
{{- end -}}
{{- end -}}

{{/* What selects the pods of the instances; it never changes. */}}
{{- define "spendflush.selector" -}}
app.kubernetes.io/name: spendflush
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: instance
{{- end -}}

{{/* Labels of the object. Takes (list CONTEXT COMPONENT). */}}
{{- define "spendflush.labels" -}}
{{- $ := index . 0 -}}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: spendflush
app.kubernetes.io/instance: {{ $.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
{{- end -}}

{{- define "spendflush.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "spendflush.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "spendflush.image" -}}
{{- $repository := required "image.repository: name where you pushed the image, such as registry.example/spendflush" .Values.image.repository -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* A value of a setting as text. Numbers of YAML are floating-point ones here: 268435456 must not become 2.68435456e+08. */}}
{{- define "spendflush.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{/* Entries of env for two maps of settings. Takes (list PLAIN SECRET). A name in both is refused. */}}
{{- define "spendflush.env" -}}
{{- $secret := index . 1 -}}
{{- range $name, $value := index . 0 }}
{{- if hasKey $secret $name }}
{{- fail (printf "%s is both in settings and in secretSettings; name it in one of them" $name) }}
{{- end }}
- name: {{ $name }}
  value: {{ include "spendflush.text" $value | quote }}
{{- end }}
{{- range $name, $from := $secret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ $from.name | quote }}
      key: {{ $from.key | quote }}
      {{- if $from.optional }}
      optional: true
      {{- end }}
{{- end }}
{{- end -}}

{{/* The settings of an instance that the chart knows by itself, unless they are set, and those that are set. */}}
{{- define "spendflush.settings" -}}
{{- $defaults := dict "SPENDFLUSH_LISTEN" ":4180" -}}
{{- if .Values.journal.enabled -}}
{{- $_ := set $defaults "SPENDFLUSH_JOURNAL_DIR" "/var/lib/spendflush/journal" -}}
{{- end -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $defaults "SPENDFLUSH_TLS_CERT_FILE" "/etc/spendflush/tls/tls.crt" -}}
{{- $_ := set $defaults "SPENDFLUSH_TLS_KEY_FILE" "/etc/spendflush/tls/tls.key" -}}
{{- end -}}
{{- $settings := dict -}}
{{- range $name, $value := $defaults -}}
{{- if not (hasKey $.Values.secretSettings $name) -}}
{{- $_ := set $settings $name $value -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- $_ := set $settings $name (include "spendflush.text" $value) -}}
{{- end -}}
{{- toJson $settings -}}
{{- end -}}

{{/* How an instance is spoken to: https or http. */}}
{{- define "spendflush.scheme" -}}
{{- $settings := include "spendflush.settings" . | fromJson -}}
{{- ternary "https" "http" (or (hasKey $settings "SPENDFLUSH_TLS_CERT_FILE") (hasKey .Values.secretSettings "SPENDFLUSH_TLS_CERT_FILE")) -}}
{{- end -}}

{{/* The port that an instance listens on. */}}
{{- define "spendflush.port" -}}
{{- $settings := include "spendflush.settings" . | fromJson -}}
{{- $listen := get $settings "SPENDFLUSH_LISTEN" | default ":4180" -}}
{{- regexFind ":[0-9]+$" $listen | trimPrefix ":" | required (printf "SPENDFLUSH_LISTEN: %q is not allowed; it must end in a port, such as :4180" $listen) -}}
{{- end -}}

{{/* The port of SPENDFLUSH_METRICS_LISTEN; empty where that isn't set or is a loopback address, which only the pod reaches, or
where extraPorts has a port named metrics. */}}
{{- define "spendflush.metricsPort" -}}
{{- $settings := include "spendflush.settings" . | fromJson -}}
{{- $listen := get $settings "SPENDFLUSH_METRICS_LISTEN" -}}
{{- $own := false -}}
{{- range .Values.extraPorts -}}
{{- if eq .name "metrics" -}}
{{- $own = true -}}
{{- end -}}
{{- end -}}
{{- if and $listen (not $own) (not (regexMatch "^(localhost|127\\.[0-9.]+|\\[::1\\]):" $listen)) -}}
{{- regexFind ":[0-9]+$" $listen | trimPrefix ":" | required (printf "SPENDFLUSH_METRICS_LISTEN: %q is not allowed; it must end in a port, such as :9464" $listen) -}}
{{- end -}}
{{- end -}}

{{/* A duration as Go writes it, such as 1m30s, in whole seconds, rounded up. Takes (list NAME TEXT). */}}
{{- define "spendflush.seconds" -}}
{{- $name := index . 0 -}}
{{- $text := index . 1 -}}
{{- if not (regexMatch "^([0-9]+(\\.[0-9]+)?(h|ms|m|us|ns|s))+$|^0$" $text) -}}
{{- fail (printf "%s: %q is not allowed; allowed are durations such as 5s or 1m30s" $name $text) -}}
{{- end -}}
{{- $units := dict "h" 3600.0 "m" 60.0 "s" 1.0 "ms" 0.001 "us" 0.000001 "ns" 0.000000001 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(h|ms|m|us|ns|s)" $text -1 -}}
{{- $unit := regexFind "[a-z]+$" . -}}
{{- $sum = addf $sum (mulf (trimSuffix $unit . | float64) (get $units $unit)) -}}
{{- end -}}
{{- ceil $sum | int64 -}}
{{- end -}}

{{/* How long a stop may take until the kubelet kills. */}}
{{- define "spendflush.gracePeriod" -}}
{{- $settings := include "spendflush.settings" . | fromJson -}}
{{- $need := add
  (include "spendflush.seconds" (list "SPENDFLUSH_DRAIN_DELAY" (get $settings "SPENDFLUSH_DRAIN_DELAY" | default "5s")) | int64)
  (include "spendflush.seconds" (list "SPENDFLUSH_SHUTDOWN_TIMEOUT" (get $settings "SPENDFLUSH_SHUTDOWN_TIMEOUT" | default "30s")) | int64) -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- add $need 10 -}}
{{- else if lt (int64 .Values.terminationGracePeriodSeconds) $need -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is not allowed; SPENDFLUSH_DRAIN_DELAY and SPENDFLUSH_SHUTDOWN_TIMEOUT take %d seconds" (int64 .Values.terminationGracePeriodSeconds) $need) -}}
{{- else -}}
{{- int64 .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* What all pods have in common, but for their containers. */}}
{{- define "spendflush.pod" -}}
automountServiceAccountToken: false
# Else Kubernetes sets variables such as SPENDFLUSH_PORT for each Service of the namespace.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The image of a container, and what it may do. */}}
{{- define "spendflush.container" -}}
image: {{ include "spendflush.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
{{- end -}}
