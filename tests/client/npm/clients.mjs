// Ranks by a client of npm, and prints the index of the best document: node clients.mjs URL MODEL CLIENT
import { createVoyage } from '@ai-sdk/voyage';
import { rerank } from 'ai';
import { CohereClient, CohereClientV2 } from 'cohere-ai';
import { VoyageAIClient } from 'voyageai';

const [url, model, client] = process.argv.slice(2);
const query = 'What is deep learning?';
const documents = ['I like pizza.', 'The weather is nice.', 'Deep learning is machine learning.'];
const calls = {
  'ai-sdk-voyage': async () => {
    const voyage = createVoyage({ baseURL: `${url}/voyage/v1`, apiKey: 'unused' });
    return (await rerank({ model: voyage.reranking(model), query, documents })).ranking[0].originalIndex;
  },
  'cohere-v1': async () =>
    (await new CohereClient({ environment: url, token: 'unused' }).rerank({ model, query, documents })).results[0].index,
  'cohere-v2': async () =>
    (await new CohereClientV2({ environment: url, token: 'unused' }).rerank({ model, query, documents })).results[0].index,
  voyage: async () =>
    (await new VoyageAIClient({ environment: url, apiKey: 'unused' }).rerank({ model, query, documents, topK: 1 })).data[0]
      .index,
};
console.log(await calls[client]());
