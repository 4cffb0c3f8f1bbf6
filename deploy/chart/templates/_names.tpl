{{- define "penstock.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock-miner
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "penstock.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* The agent's configuration, as src/penstock/miner/config.py reads it. */}}
{{- define "penstock.config" -}}
{{- $home := "/var/lib/penstock" -}}
{{- $config := dict
  "name" "miner"
  "network" .Values.market.network
  "market_url" (required "market.url is required: the URL of the market" .Values.market.url)
  "operator" .Values.market.operator
  "home" $home
  "key_file" (printf "%s/key.json" $home)
  "host" "0.0.0.0"
  "port" 8480
  "endpoint" .Values.endpoint
  "chutes" .Values.chutes
  "auto" (empty .Values.chutes)
  "instances_max" (int .Values.instancesMax)
  "price_share_ppm" (int .Values.priceSharePpm)
  "runtime" .Values.runtime
  "engine_env" (dict "PATH" "/opt/penstock/bin:/usr/local/bin:/usr/bin:/bin" "HOME" $home)
  "tunnel" (dict "mode" .Values.tunnel)
  "weights" (dict "quota_bytes" (int64 .Values.storage.weightsQuotaBytes))
-}}
{{- if eq .Values.runtime "kubernetes" -}}
{{- $images := merge (dict) .Values.images (dict "default" (include "penstock.image" .)) -}}
{{- $callers := dict "app.kubernetes.io/name" "penstock-miner" "app.kubernetes.io/instance" .Release.Name -}}
{{- $cluster := dict
  "namespace" .Release.Namespace
  "runtime_class" .Values.runtimeClass
  "gpu_resource" .Values.gpuResource
  "claims" .Values.claims
  "callers" $callers
-}}
{{- $_ := set $config "images" $images -}}
{{- $_ := set $config "kubernetes" $cluster -}}
{{- end -}}
{{- mergeOverwrite $config .Values.settings | toPrettyJson -}}
{{- end -}}
